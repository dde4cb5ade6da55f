"""WebDataset shards: uncompressed tar archives of samples.

Files whose names are equal up to the first dot are one sample.

A sample is an image (`KEY.jpg`, .png, …) and its label: `KEY.cls`, a whole number, or `KEY.json` with "label" or "cls".
Files that macOS leaves behind (`._KEY.jpg`) are no samples. Samples without an image that is read are counted and left
out. Links and sparse members, which no writer of shards makes, are refused, since samples would be incomplete without
them, as are samples of two images, or of two labels that differ.
Samples are found once, by the headers of the archives, and then read where they lie, one at a time; nothing holds a
shard in memory.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..decode import IMAGE_SUFFIXES
from ..errors import UserError, counted
from ..files import check_regular, is_side_file
from .archives import check_end, open_tar, sparse
from .index_cache import LARGE, Stamp, remembered, stamp_of
from .stores import EncodedStore, read_range, reading

LABELS = (".cls", ".json")
MAX_LABEL = 8 << 20
"""Bytes of a label's file; JSON takes up to twenty times as many in memory."""
BLOCK = 256
"""Samples that a shuffle keeps near each other, so that a disk reads on."""


class ShardStore(EncodedStore):
    """The samples of shards, in their order."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises UserError for a damaged or compressed archive, and a sample without a label."""
        self.files = list(files)
        what = "\n".join(["shards, with notes", *(str(file.absolute()) for file in files)])
        rows, notes = remembered(what, lambda: _index(self.files), lambda found: len(found[0]) > LARGE)
        self.notes = tuple(notes)
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self.shard, self.offset, self.size = table[:, 0], table[:, 1], table[:, 2]
        self.labels = table[:, 3]
        self.stamp = {str(file.absolute()): stamp_of(file) for file in files}

    @property
    def blocks(self) -> npt.NDArray[np.int64]:
        """The block of each sample: its shard, in parts of BLOCK."""
        starts = np.searchsorted(self.shard, self.shard)
        parts = (np.arange(len(self.shard)) - starts) // BLOCK
        most = int(parts.max(initial=0)) + 1
        return np.asarray(self.shard * most + parts)

    def name(self, index: int) -> str:
        first = int(np.searchsorted(self.shard, self.shard[index]))
        return f"{self.files[self.shard[index]]} sample {index - first}"

    def identity(self, index: int) -> str:
        first = int(np.searchsorted(self.shard, self.shard[index]))
        return f"{self.files[self.shard[index]].name} {index - first} {self.size[index]}"

    def open(self, index: int) -> IO[bytes]:
        path = self.files[self.shard[index]]
        return read_range(path, self.name(index), int(self.offset[index]), int(self.size[index]))


def is_shard(path: Path) -> bool:
    """Whether the first files of a tar archive look like samples with labels."""
    check_regular(path)
    endings: dict[str, set[str]] = {}
    with reading(path):
        try:
            with open_tar(path) as archive:
                for count, info in enumerate(archive):
                    key, ending = _split(info.name)
                    if _is_side_file(info.name):
                        continue
                    endings.setdefault(key, set()).add(ending)
                    if count == 15:
                        break
        except tarfile.ReadError:
            return False
    return any(found & IMAGE_SUFFIXES and found & set(LABELS) for found in endings.values())


def _index(files: Sequence[Path]) -> tuple[Stamp, tuple[list[tuple[int, int, int, int]], list[str]]]:
    """Return rows of shard, offset, size and label, and notes.

    A note says, a line for each shard, what was left out.
    """
    rows: list[tuple[int, int, int, int]] = []
    notes: list[str] = []
    for number, file in enumerate(files):
        left_out: list[str] = []
        rows += [(number, *sample) for sample in _samples(file, left_out)]
        if left_out:
            notes.append(
                f"{file}: {counted(len(left_out), 'sample has', 'samples have')} no image KEY.jpg, .png, … that "
                f"is read, such as {left_out[0]}; "
                "left out"
            )
    return {str(file.absolute()): stamp_of(file) for file in files}, (rows, notes)


def _samples(path: Path, left_out: list[str]) -> Iterator[tuple[int, int, int]]:
    """Yield offset, size and label of each sample of a shard.

    Keys of samples without an image go to `left_out`.
    """
    key, image, label = "", None, None
    of_use = False  # the sample has a label, or what looks like an image
    check_regular(path)
    with reading(path):
        try:
            with open_tar(path) as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # or a large shard's list would fill the memory
                    if info.isdir() or _is_side_file(info.name):
                        continue
                    if not info.isreg() or sparse(info):
                        raise UserError(
                            f"{path}: {info.name} is a link or a sparse file; write the shard with plain files"
                        )
                    own, ending = _split(info.name)
                    if own != key:
                        if of_use and image is None:
                            left_out.append(key)
                        yield from _sample(path, key, image, label)
                        key, image, label, of_use = own, None, None, False
                    of_use = of_use or ending.endswith((*IMAGE_SUFFIXES, *LABELS))
                    if ending in IMAGE_SUFFIXES:
                        if image is not None:
                            raise UserError(f"{path}: the sample {key} has two images; which one has the label?")
                        image = (info.offset_data, info.size)
                    elif ending in LABELS:
                        if info.size > MAX_LABEL:
                            raise UserError(f"{path}: {info.name} has {info.size} bytes, a label at most {MAX_LABEL}")
                        label = _label(path, info.name, ending, archive.extractfile(info).read(), label)  # type: ignore[union-attr]
                if of_use and image is None:
                    left_out.append(key)
                yield from _sample(path, key, image, label)
                check_end(path, archive)
        except tarfile.ReadError as error:
            raise UserError(f"{path} is not a whole, uncompressed tar archive ({error})") from None


def _sample(path: Path, key: str, image: tuple[int, int] | None, label: int | None) -> Iterator[tuple[int, int, int]]:
    if image is None:
        return
    if label is None:
        raise UserError(f"{path}: {key} has no label: a sample needs {key}.cls with its number, or {key}.json")
    yield (*image, label)


def _label(path: Path, name: str, ending: str, data: bytes, other: int | None) -> int | None:
    try:
        if ending == ".cls":
            text = data.decode("utf-8-sig").strip()
            if not (text.isascii() and text.removeprefix("-").isdigit()):  # Python also takes 1_0 and other digits
                raise ValueError("not a whole number")
            label: Any = int(text)
        else:
            fields = json.loads(data)
            label = fields.get("label", fields.get("cls", other)) if isinstance(fields, dict) else other
    except (ValueError, RecursionError):
        raise UserError(f"{path}: {name} holds no label but {data[:40]!r}") from None
    if label is not None and (type(label) is not int or not 0 <= label < 1 << 63):
        raise UserError(f"{path}: {name} has the label {label!r}; labels are whole numbers from 0 of at most 63 bits")
    if other is not None and label != other:
        raise UserError(f"{path}: {name} has the label {label}, but its sample has {other}, too")
    return label


def _split(name: str) -> tuple[str, str]:
    """The key of a file and what follows its first dot: "a/0.seg.png" -> ("a/0", ".seg.png")."""
    folder, slash, file = name.rpartition("/")
    key, dot, ending = file.partition(".")
    return folder + slash + key, dot + ending.lower()


def _is_side_file(name: str) -> bool:
    return is_side_file(name.rpartition("/")[2])
