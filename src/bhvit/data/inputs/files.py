"""Files named one by one, in folders, or in lists."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ...decode import Needed, load_image
from ..stores import check_size
from .picture import Decoded, Failed, Part, Picture

_LONGEST = 8192
"""Bytes of a path or an address in a list."""


class FilePicture(Picture):
    """An image file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))

    def image(self, needed: Needed | None = None) -> Decoded:
        path = Path(self.name)
        try:
            size = path.stat().st_size
        except (OSError, ValueError):  # the decoder says why
            size = 0
        check_size(path, size)
        return load_image(path, needed=needed)


class Files(Part):
    """Image files by their paths."""

    def __init__(self, paths: Sequence[str | Path], notes: Iterable[str] = ()) -> None:
        self._paths = paths
        self.total = len(paths)
        self.notes = tuple(notes)

    def __iter__(self) -> Iterator[Picture]:
        return map(FilePicture, self._paths)


class Listed(Part):
    """Paths and addresses in a stream, separated by newlines or null characters.

    Lines are read as they come, so a program may write for ever. Empty lines mean nothing. What is on a line becomes a
    picture by `make`.
    """

    def __init__(self, stream: IO[bytes], make: Callable[[str], Picture]) -> None:
        self._stream, self._make = stream, make

    def __iter__(self) -> Iterator[Picture]:
        for number, entry in enumerate(_entries(self._stream)):
            if number == 0:
                entry = entry.removeprefix(codecs.BOM_UTF8)  # which PowerShell writes
            text = os.fsdecode(entry.rstrip(b"\r"))
            if not text.strip():
                continue
            if len(entry) > _LONGEST:
                yield Failed(text[:100] + "…", f"{text[:100]}… is no path: it has more than {_LONGEST} characters")
                continue
            yield self._make(text)


def _entries(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the entries of a stream as they come, long ones cut short."""
    read = getattr(stream, "read1", stream.read)
    left = b""
    skipping = False  # the rest of an entry that was too long
    while chunk := read(1 << 16):
        *whole, left = re.split(rb"[\0\n]", left + chunk)
        if skipping and whole:
            skipping = False
            del whole[0]
        yield from whole
        if skipping:
            left = b""
        elif len(left) > _LONGEST:
            yield left[: _LONGEST + 1]
            left, skipping = b"", True
    if left:
        yield left
