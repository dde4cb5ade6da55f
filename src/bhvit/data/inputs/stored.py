"""Images of archives, shards and parquet files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...decode import IMAGE_SUFFIXES, Needed
from ...errors import UserError
from ..archives import TarStore, ZipStore
from ..parquet import ParquetStore, image_column
from ..stores import EncodedStore, FileStore
from .picture import Decoded, Failed, Part, Picture, Still, left_out, no_images

ARCHIVES = {".zip": ZipStore, ".tar": TarStore}
COMPRESSED = frozenset(".tgz .tbz .tbz2 .txz .gz .bz2 .xz .zst .7z .rar".split())


class StoredPicture(Picture):
    """An image of a store."""

    def __init__(self, store: EncodedStore, index: int) -> None:
        super().__init__(store.name(index))
        self._store, self._index = store, index

    def image(self, needed: Needed | None = None) -> Decoded:
        return self._store.image(self._index, needed)

    def portable(self) -> Picture:
        try:
            file = self._store.open(self._index)
            assert file is not None
            with file:
                return Still(self.name, file.read())
        except UserError as error:
            return Failed(self.name, str(error))


class Stored(Part):
    """Images of a store, in its order."""

    def __init__(self, store: EncodedStore, indices: range | list[int], notes: tuple[str, ...] = ()) -> None:
        self._store, self._indices = store, indices
        self.total, self.notes = len(indices), (*store.notes, *notes)

    def __iter__(self) -> Iterator[Picture]:
        return (StoredPicture(self._store, index) for index in self._indices)


def open_archive(path: Path) -> Stored:
    """The image files of a zip or tar archive.

    Raises UserError if it is damaged or holds none.
    """
    store: FileStore = ARCHIVES[path.suffix.lower()](path)
    chosen = [index for index, member in enumerate(store.members) if Path(member).suffix.lower() in IMAGE_SUFFIXES]
    if not chosen:
        raise no_images("archive", path, store.members)
    return Stored(store, chosen, left_out(path, store.members))


def open_parquet_files(paths: Sequence[Path]) -> list[Stored]:
    """Open the image columns of parquet files, {bytes, path} or bytes.

    Files whose columns have one name are one part.

    Raises UserError for a file that is damaged, or has no such column or no rows.
    """
    parts = []
    for column, files in itertools.groupby(paths, image_column):
        store = ParquetStore(list(files), column)
        if not store.starts[-1]:
            raise UserError(f"{store.files[0]} has no rows")
        parts.append(Stored(store, range(store.starts[-1])))
    return parts
