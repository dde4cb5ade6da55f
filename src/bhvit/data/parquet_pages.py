"""How many bytes the pages of a parquet file unpack to, read from their headers before any is unpacked.

PyArrow unpacks a page as a whole, whatever the footer claims of its column, and ends the process where it is asked
about a column whose statistics are damaged. Footer and headers are structures of Thrift's compact protocol
(`parquet.thrift` of Apache Parquet); the few fields that count are read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import UserError
from .stores import reading

_HEADER = 1 << 16
"""Bytes in which a page's header ends; statistics in it are cut short by writers."""
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


class Chunk(NamedTuple):
    """Where the pages of a column and row group lie."""

    start: int
    size: int


def chunks_of(path: Path) -> list[list[Chunk]]:
    """Return the chunks of each row group, one for each column in the order of the schema.

    Raises UserError for a damaged footer.
    """
    with reading(path), path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        footer = file.read(length)
    groups: list[list[Chunk]] = []

    def group(thrift: _Compact) -> None:
        groups.append([])
        thrift.fields({(1, _LIST): lambda: thrift.each(lambda: column(thrift))})

    def column(thrift: _Compact) -> None:
        found: dict[int, int] = {}

        def note(field: int) -> Callable[[], None]:
            return lambda: found.update({field: thrift.number()})

        wanted = {(field, _I64): note(field) for field in (7, 9, 11)}  # packed bytes, first data and dictionary page
        thrift.fields({(3, _STRUCT): lambda: thrift.fields(wanted)})
        first = found.get(9, 0)
        dictionary = found.get(11, 0)
        groups[-1].append(Chunk(dictionary if 0 < dictionary < first else first, found.get(7, 0)))

    thrift = _Compact(footer)
    with _damage(path):
        thrift.fields({(4, _LIST): lambda: thrift.each(lambda: group(thrift))})
    return groups


def unpacked_size(path: Path, chunks: Sequence[Chunk], limit: int) -> int:
    """Return the bytes that the pages of these chunks unpack to, at most a page more than `limit`.

    Raises UserError for a damaged page header.
    """
    total = 0
    with reading(path), path.open("rb") as file:
        for start, size in chunks:
            at, end = start, start + size
            while at < end and total <= limit:
                with _damage(path):
                    header, unpacked, packed = _page(file, at)
                total += unpacked
                at += header + packed
    return total


def _page(file: IO[bytes], at: int) -> tuple[int, int, int]:
    """Bytes of the header of the page at an offset, of the page unpacked, and of the page as it is."""
    file.seek(at)
    thrift = _Compact(file.read(_HEADER))
    sizes: dict[int, int] = {}
    thrift.fields({(field, _I32): lambda field=field: sizes.update({field: thrift.number()}) for field in (2, 3)})  # type: ignore[misc]
    if min(sizes[2], sizes[3]) < 0:
        raise ValueError("a page of negative size")
    return thrift.at, sizes[2], sizes[3]


class _damage:
    """Within it, what damaged bytes bring about is a UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, IndexError | KeyError | ValueError | RecursionError | OverflowError):
            raise UserError(f"{self._path} is not a whole parquet file, copy or download it again") from None


class _Compact:
    """A reader of Thrift's compact protocol. Raises IndexError at the end of its bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def fields(self, wanted: dict[tuple[int, int], Callable[[], None]]) -> None:
        """Read a structure: the fields of these numbers and types by their functions; others are passed over."""
        number = 0
        while (head := self._byte()) & 15:
            number = number + (head >> 4) if head >> 4 else self.number()
            read = wanted.get((number, head & 15))
            if read is not None:
                read()
            elif head & 15 > 2:  # the type of true and false is the value
                self._pass(head & 15)

    def each(self, read: Callable[[], None]) -> None:
        """Read the elements of a list, one after the other."""
        for _ in range(self._list()[1]):
            read()

    def number(self) -> int:
        """Read a whole number of 16, 32 or 64 bits."""
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _list(self) -> tuple[int, int]:
        """The type and number of a list's elements."""
        head = self._byte()
        return head & 15, self._unsigned() if head >> 4 == 15 else head >> 4

    def _pass(self, kind: int) -> None:
        if kind in (1, 2, 3):  # elements of lists and maps
            self.at += 1
        elif kind in (4, _I32, _I64):
            self._unsigned()
        elif kind == 7:
            self.at += 8
        elif kind == _BINARY:
            size = self._unsigned()
            self.at += size
        elif kind in (_LIST, 10):
            element, count = self._list()
            for _ in range(count):
                self._pass(element)
        elif kind == 11:
            if count := self._unsigned():
                kinds = self._byte()
                for _ in range(count):
                    self._pass(kinds >> 4)
                    self._pass(kinds & 15)
        elif kind == _STRUCT:
            self.fields({})
        elif kind == 13:
            self.at += 16
        else:
            raise ValueError(f"no type {kind}")
        if self.at > len(self._data):
            raise IndexError("the bytes end")
