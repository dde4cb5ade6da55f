"""Files named one by one, in folders, or in lists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ...image import Needed, load_image
from ..stores import check_size, reading
from .picture import Decoded, Failed, Part, Picture


class FilePicture(Picture):
    """An image file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))

    def image(self, needed: Needed | None = None) -> Decoded:
        path = Path(self.name)
        if path.is_file():  # anything else is refused by the decoder, in its words
            with reading(path):
                check_size(path, path.stat().st_size)
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
    """Paths and addresses as a program writes them: one a line, or with null characters between them.

    Lines are read as they come, so a program may write for ever. Empty lines mean nothing. What is on a line becomes a
    picture by `make`.
    """

    def __init__(self, stream: IO[bytes], make: Callable[[str], Picture]) -> None:
        self._stream, self._make = stream, make

    def __iter__(self) -> Iterator[Picture]:
        for line in self._stream:
            for entry in line.split(b"\0"):
                text = os.fsdecode(entry.rstrip(b"\r\n"))
                if not text.strip():
                    continue
                if len(text) > 8192:
                    yield Failed(text[:100] + "…", f"{text[:100]}… is no path: a line has {len(text)} characters")
                    continue
                yield self._make(text)
