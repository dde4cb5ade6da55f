"""Stores of images: arrays, folders, archives, parquet files.

Each is read one image at a time.

A store knows nothing of classes or splits. Stores pickle without their open files, so that every worker process opens
its own.
"""

from __future__ import annotations

import abc
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..decode import Needed, load_image
from ..errors import UserError
from ..files import is_side_file
from ..system import environment_limit
from .index_cache import Stamp

WINDOW = 16
"""Blocks that a shuffle mixes with each other, if the store can hold as many."""
MAX_FILE_BYTES = environment_limit("BHVIT_MAX_FILE_BYTES", 256 << 20)
"""Largest encoded image in bytes: a member of an archive may claim any size. Raised by BHVIT_MAX_FILE_BYTES."""

_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    RuntimeError,  # encrypted, and NotImplementedError: a compression method that zipfile lacks
    ValueError,
    zlib.error,
    struct.error,
)


class Store(Protocol):
    """Encoded images by number."""

    notes: tuple[str, ...]
    """What was left out while looking for images, and why, a line each."""

    def name(self, index: int) -> str:
        """Return what messages call the image, usually its path."""

    def identity(self, index: int) -> str:
        """Return what identifies the image in its source: relative name and size."""

    def open(self, index: int) -> IO[bytes] | None:
        """Open the encoded image as a seekable file; None for raw pixels."""

    def image(self, index: int, needed: Needed | None = None) -> Image.Image:
        """Decode an image, `needed` as in `load_image`. Raises UserError naming it if it is damaged."""

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        """The number of the block that each image is read with, int64 (N,).

        A shuffle should keep the images of a block near each other. None where any order is as good.
        """

    @property
    def window(self) -> int:
        """How many blocks can be read at once without reading any twice."""

    @property
    def stamp(self) -> Stamp | None:
        """Stamp that tells whether the files have changed (`index_cache`), if any does."""


class ArrayStore:
    """Pixels in memory: uint8 (N, H, W) or (N, H, W, C)."""

    blocks = stamp = None
    window = WINDOW
    notes: tuple[str, ...] = ()

    def __init__(self, pixels: npt.NDArray[np.uint8], what: str) -> None:
        self.pixels, self.what = pixels, what

    def name(self, index: int) -> str:
        return f"{self.what} image {index}"

    def identity(self, index: int) -> str:
        return self.name(index)

    def open(self, index: int) -> IO[bytes] | None:
        return None

    def image(self, index: int, needed: Needed | None = None) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class EncodedStore(abc.ABC):
    """Base of the stores of encoded images."""

    stamp: Stamp | None = None
    window = WINDOW
    notes: tuple[str, ...] = ()

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        return None

    @abc.abstractmethod
    def name(self, index: int) -> str: ...

    @abc.abstractmethod
    def identity(self, index: int) -> str: ...

    @abc.abstractmethod
    def open(self, index: int) -> IO[bytes] | None: ...

    def image(self, index: int, needed: Needed | None = None) -> Image.Image:
        file = self.open(index)
        assert file is not None
        with file:
            return load_image(file, self.name(index), needed=needed)


class FileStore(EncodedStore):
    """A folder or archive.

    `members` are its files and `folders` its folders, as "a/b" below the root.
    """

    def __init__(self, root: Path, members: list[str], folders: list[str], notes: tuple[str, ...] = ()) -> None:
        self.root, self.members, self.folders, self.notes = root, members, folders, notes

    def name(self, index: int) -> str:
        return str(self.root / self.members[index])

    def identity(self, index: int) -> str:
        return f"{self.members[index]} {self.size(index)}"

    @abc.abstractmethod
    def size(self, index: int) -> int:
        """Bytes of an encoded image."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of archives into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
    except _ARCHIVE_ERRORS as error:
        raise UserError(f"{path} cannot be unpacked: {first_line(error)}") from None
    except Exception as error:
        if type(error).__module__ not in ("lzma", "_lzma", "bz2", "zipfile"):
            raise
        raise UserError(f"{path} cannot be unpacked: {first_line(error)}") from None


def check_size(path: str | Path, size: int) -> None:
    """Raises UserError for an encoded image of too many bytes, before reading it."""
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {size} bytes, at most {MAX_FILE_BYTES} are read: BHVIT_MAX_FILE_BYTES={size} allows it"
        )


def read_range(path: Path, name: str, offset: int, size: int) -> IO[bytes]:
    """Read an encoded image that lies uncompressed within a file.

    Raises UserError if it is too large or cut short.
    """
    check_size(name, size)
    with reading(path), path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise UserError(f"{name} is cut short: {len(data)} of its {size} bytes are there")
    return io.BytesIO(data)


def first_line(error: Exception) -> str:
    """Return an error's message in one line, or its type without one."""
    return " ".join(str(error).split()) or type(error).__name__


def without_side_files(paths: list[str]) -> list[str]:
    """Paths "a/b" none of whose parts is a side file."""
    return [path for path in paths if path and not any(is_side_file(part) for part in path.split("/"))]
