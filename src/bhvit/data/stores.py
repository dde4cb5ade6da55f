"""Where encoded images lie: folders, archives, parquet files, arrays; each read one image at a time.

A store knows nothing of classes or splits (that is `data`). Stores pickle without their open files,
so that every worker process opens its own.
"""

from __future__ import annotations

import abc
import bisect
import io
import itertools
import os
import stat
import tarfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from posixpath import normpath
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UserError, require_extra
from ..image import load_image
from .index_cache import LARGE, Stamp, remembered, stamp_of

WINDOW = 16
"""Blocks that a shuffle mixes with each other, if the store can hold as many."""
PARQUET_CACHE = 512 << 20
"""Bytes of encoded images a parquet store keeps in memory. CIFAR and Tiny-ImageNet fit as a whole;
larger sets keep the row groups used last."""

_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


class Store(Protocol):
    """Encoded images by number."""

    def name(self, index: int) -> str:
        """What messages call the image, usually its path."""

    def open(self, index: int) -> IO[bytes] | None:
        """The encoded image as a seekable file; None if the pixels are stored as they are."""

    def image(self, index: int) -> Image.Image:
        """The decoded image. Raises UserError naming it if it is damaged."""

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        """For each image the number of the part that it is read with, int64 (N,), where a shuffle should keep those of
        a part near each other; None where any order is as good."""

    @property
    def window(self) -> int:
        """How many blocks can be read at the same time without reading any of them twice."""

    @property
    def stamp(self) -> Stamp | None:
        """What tells whether the files have changed (`listing`), if anything does."""


class ArrayStore:
    """Pixels in memory: uint8 (N, H, W) or (N, H, W, C)."""

    blocks = stamp = None
    window = WINDOW

    def __init__(self, pixels: npt.NDArray[np.uint8], what: str) -> None:
        self.pixels, self.what = pixels, what

    def name(self, index: int) -> str:
        return f"{self.what} image {index}"

    def open(self, index: int) -> IO[bytes] | None:
        return None

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class EncodedStore(abc.ABC):
    """What stores of encoded images share."""

    stamp: Stamp | None = None
    window = WINDOW

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        return None

    @abc.abstractmethod
    def name(self, index: int) -> str: ...

    @abc.abstractmethod
    def open(self, index: int) -> IO[bytes] | None: ...

    def image(self, index: int) -> Image.Image:
        file = self.open(index)
        assert file is not None
        with file:
            return load_image(file, self.name(index))


class FileStore(EncodedStore):
    """A folder or archive: `members` are its files and `folders` its folders, as "a/b" below the root."""

    def __init__(self, root: Path, members: list[str], folders: list[str]) -> None:
        self.root, self.members, self.folders = root, members, folders

    def name(self, index: int) -> str:
        return str(self.root / self.members[index])


class FolderStore(FileStore):
    """Files below a folder, followed through links, in sorted order."""

    def __init__(self, root: Path) -> None:
        what = f"folder\n{root.absolute()}"
        members, folders = remembered(what, lambda: _walk(root), lambda found: len(found[0]) > LARGE)
        super().__init__(root, members, folders)

    @property
    def stamp(self) -> Stamp:  # type: ignore[override]
        with reading(self.root):
            return {str(path): stamp_of(path) for path in (self.root.absolute() / name for name in ("", *self.folders))}

    def open(self, index: int) -> IO[bytes] | None:
        path = self.root / self.members[index]
        with reading(path):
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise UserError(f"{path} is not a regular file")
            return path.open("rb")


def _walk(root: Path) -> tuple[Stamp, tuple[list[str], list[str]]]:
    """Files and folders below `root`, each as "a/b"."""
    members, folders, stamp = [], [], {}
    with reading(root):
        for folder, names, files in os.walk(root, followlinks=True, onerror=_raise):
            stamp[str(Path(folder).absolute())] = stamp_of(Path(folder))
            names[:] = sorted(name for name in names if not _junk(name))
            below = Path(folder).relative_to(root)
            folders += [(below / name).as_posix() for name in names]
            members += [(below / name).as_posix() for name in files if not _junk(name)]
    return stamp, (sorted(members), sorted(folders))


class ZipStore(FileStore):
    """Files of a zip archive, never unpacked to the disk."""

    def __init__(self, path: Path) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        with reading(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        members = sorted(info.filename for info in infos if not info.is_dir())
        folders = sorted(info.filename.rstrip("/") for info in infos if info.is_dir())
        super().__init__(path, _keep(members), _keep(folders))

    def open(self, index: int) -> IO[bytes] | None:
        with self._lock, reading(self.root / self.members[index]):
            self._zip = self._zip or zipfile.ZipFile(self.root)
            return io.BytesIO(self._zip.read(self.members[index]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class TarStore(FileStore):
    """Files of an uncompressed tar archive, read where they lie."""

    def __init__(self, path: Path) -> None:
        with reading(path):
            try:
                with tarfile.open(path, "r:") as archive:
                    infos = archive.getmembers()
            except tarfile.ReadError as error:
                reason = f"{path} is not an uncompressed tar archive ({error})"
                raise UserError(f"{reason}; unpack it, or make a zip") from None
        # Normalised: many archives call their files "./a/b".
        self._where = {normpath(info.name): (info.offset_data, info.size) for info in infos if info.isreg()}
        folders = sorted(normpath(info.name) for info in infos if info.isdir())
        super().__init__(path, _keep(sorted(self._where)), _keep(folders))

    def open(self, index: int) -> IO[bytes] | None:
        offset, size = self._where[self.members[index]]
        with reading(self.root), self.root.open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))


class ParquetStore(EncodedStore):
    """The image column of parquet files, either {bytes, path} or bytes, read by row groups."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self.files, self.column = list(files), column
        self.groups: list[tuple[int, int]] = []
        """(file, row group) of each row group in order."""
        self.bytes = 0
        """Of all row groups, uncompressed."""
        rows: list[int] = []
        for number, path in enumerate(self.files):
            metadata = open_parquet(path).metadata
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                rows.append(metadata.row_group(group).num_rows)
                self.bytes += metadata.row_group(group).total_byte_size
        self.starts = [0, *itertools.accumulate(rows)]
        with reading(self.files[0]):
            self.window = max(2, min(WINDOW, PARQUET_CACHE * len(rows) // max(1, self.bytes)))
            self.stamp = {str(path.absolute()): stamp_of(path) for path in self.files}
        self._reset()

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        if self.bytes <= PARQUET_CACHE:  # each row group is read once
            return None
        return np.repeat(np.arange(len(self.groups)), np.diff(self.starts))

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()

    def name(self, index: int) -> str:
        group = bisect.bisect_right(self.starts, index) - 1
        number = self.groups[group][0]
        first = next(start for (file, _), start in zip(self.groups, self.starts) if file == number)
        return f"{self.files[number]} row {index - first}"

    def open(self, index: int) -> IO[bytes] | None:
        group = bisect.bisect_right(self.starts, index) - 1
        value = self._group(group)[index - self.starts[group]]
        if not value.is_valid:
            raise UserError(f"{self.name(index)} holds no image bytes")
        return io.BytesIO(value.as_buffer())

    def _group(self, group: int) -> Any:
        """The encoded images of a row group, a binary array, from memory if it was used lately."""
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            number, inner = self.groups[group]
            if number not in self._open:
                self._open[number] = open_parquet(self.files[number])
            file = self._open[number]
            try:
                table = file.read_row_group(inner, columns=[self.column])
                array = table.column(self.column).combine_chunks()
                if hasattr(array.type, "num_fields") and array.type.num_fields:
                    array = array.field("bytes")
            except (OSError, ValueError, KeyError) as error:  # Arrow's errors are these
                raise UserError(f"{self.files[number]} is damaged in row group {inner}: {_line(error)}") from None
            self._cache[group] = array
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > PARQUET_CACHE:
                self._cache.popitem(last=False)
            return array

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises UserError if it is not one, or cut short."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise require_extra("pyarrow", "train") from None
    with reading(path):
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty: copy or download it again")
        try:
            return pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, ValueError) as error:
            raise UserError(f"{path} is not a whole parquet file, copy or download it again: {_line(error)}") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of the file system and of archives into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is damaged: {_line(error)}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or _line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _raise(error: OSError) -> None:
    raise error


def _junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _keep(paths: list[str]) -> list[str]:
    return [path for path in paths if path and not any(_junk(part) for part in path.split("/"))]
