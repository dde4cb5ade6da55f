"""How many bytes the pages of a parquet file unpack to, read from their headers before any is unpacked.

PyArrow unpacks a page as a whole, whatever the footer claims of its column, and ends the process where it is asked
about a column whose statistics are damaged. Footer and headers are structures of Thrift's compact protocol
(`parquet.thrift` of Apache Parquet), which the package `thrift` reads; only the fields that count are named here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.Thrift import TException, TType
from thrift.transport.TTransport import TFileObjectTransport

from ..errors import UserError
from .stores import reading

_TEXT = 1 << 20
"""Bytes of a text in a page's header; those of statistics are cut short by writers."""


class Chunk(NamedTuple):
    """Where the pages of a column and row group lie."""

    start: int
    size: int


def chunks_of(path: Path) -> list[list[Chunk]]:
    """Return the chunks of each row group, one for each column in the order of the schema.

    Raises UserError for a damaged footer, and for chunks that share bytes.
    """
    with reading(path), path.open("rb") as file:
        end = file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(end - length)
        footer = file.read(length)
    with _damage(path):
        described = _FileMetaData.read_from(io.BytesIO(footer), len(footer))
        groups = [[_chunk(column.meta_data) for column in group.columns] for group in described.row_groups]
    at = 0
    for start, size in sorted(chunk for group in groups for chunk in group if chunk.size):
        if start < at:
            raise UserError(f"{path} has columns that share their bytes: write it again")
        at = start + size
    return groups


def _chunk(column: _ColumnMetaData | None) -> Chunk:
    if column is None:  # encrypted, which PyArrow refuses
        return Chunk(0, 0)
    pages = column.data_page_offset, column.dictionary_page_offset
    # Either may be 0: a column without a dictionary, or of no rows, with a dictionary alone.
    start, size = min((offset for offset in pages if offset), default=0), column.total_compressed_size
    if start < 0 or size < 0:
        raise ValueError("a chunk before the file")
    return Chunk(start, size)


def unpacked_size(path: Path, chunks: Sequence[Chunk], limit: int) -> int:
    """Return the bytes that the pages of these chunks unpack to, at most a page more than `limit`.

    Raises UserError for a damaged page header.
    """
    total = 0
    with reading(path), path.open("rb") as file:
        for at, size in chunks:
            end = at + size
            while at < end and total <= limit:
                file.seek(at)
                with _damage(path):
                    page = _PageHeader.read_from(file, _TEXT)
                    if page.uncompressed_page_size < 0 or page.compressed_page_size < 0:
                        raise ValueError("a page without a size, or of a negative one")
                total += page.uncompressed_page_size
                at = file.tell() + page.compressed_page_size
    return total


class _Protocol(TCompactProtocol):  # type: ignore[misc]
    """Thrift's protocol for structures whose texts may hold any bytes, as the bounds of a column do."""

    def readString(self) -> bytes:
        data: bytes = self.readBinary()
        return data


class _Struct:
    """A structure; fields that `thrift_spec` does not list are skipped."""

    thrift_spec: ClassVar[tuple[Any, ...]]

    @classmethod
    def read_from(cls, file: IO[bytes], longest: int) -> Any:
        """Read a structure, with texts of at most `longest` bytes, where a file stands."""
        found = cls()
        found.read(_Protocol(TFileObjectTransport(file), string_length_limit=longest))
        return found

    def read(self, protocol: Any) -> None:
        """As Thrift asks of the structures in a list."""
        protocol.readStruct(self, self.thrift_spec)


def _fields(*fields: tuple[int, int, str, Any]) -> tuple[Any, ...]:
    """Fields by number, type, name, and type of what they hold, as Thrift's generated code lists them."""
    listed: list[Any] = [None] * (1 + max(field[0] for field in fields))
    for number, kind, name, inner in fields:
        listed[number] = (number, kind, name, inner, None)
    return tuple(listed)


class _ColumnMetaData(_Struct):
    total_compressed_size = data_page_offset = dictionary_page_offset = 0
    thrift_spec = _fields(
        (7, TType.I64, "total_compressed_size", None),
        (9, TType.I64, "data_page_offset", None),
        (11, TType.I64, "dictionary_page_offset", None),
    )


class _ColumnChunk(_Struct):
    meta_data: _ColumnMetaData | None = None
    thrift_spec = _fields((3, TType.STRUCT, "meta_data", (_ColumnMetaData, None)))


class _RowGroup(_Struct):
    columns: Sequence[_ColumnChunk] = ()
    thrift_spec = _fields((1, TType.LIST, "columns", (TType.STRUCT, (_ColumnChunk, None), False)))


class _FileMetaData(_Struct):
    row_groups: Sequence[_RowGroup] = ()
    thrift_spec = _fields((4, TType.LIST, "row_groups", (TType.STRUCT, (_RowGroup, None), False)))


class _PageHeader(_Struct):
    uncompressed_page_size = compressed_page_size = -1
    thrift_spec = _fields((2, TType.I32, "uncompressed_page_size", None), (3, TType.I32, "compressed_page_size", None))


class _damage:
    """Within it, what damaged bytes bring about is a UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        damage = (TException, EOFError, ValueError, RecursionError, OverflowError, LookupError, AssertionError)
        if isinstance(error, damage):
            raise UserError(f"{self._path} is not a whole parquet file, copy or download it again") from None
