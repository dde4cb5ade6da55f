"""Finding images with masks: what `--data` names for segmentation becomes a `MaskedDataset` of one split.

A source is one of

    FOLDER, FILE.zip, FILE.tar   images/SPLIT/a.jpg with masks/SPLIT/a.png, or images/a.jpg with masks/a.png, in the
                                 folder or archive itself or below its only folder; classes.txt there names the classes
    FOLDER or FILE.parquet       the Hugging Face convention: columns image and annotation, {bytes, path} each

Masks are 8-bit images of class numbers, greyscale or with a palette. Pixels of the label 255, of the label `ignore`,
and of a class that is named as unlabelled count for nothing.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..decode import IMAGE_SUFFIXES, known_formats, load_image
from ..errors import UserError, counted, report
from ..image import Preprocess
from ..spec.model import MAX_LABELS
from ..system import allowed_cores
from ..text import some
from .archives import TarStore, ZipStore
from .classes import read_class_names
from .dataset import Dataset, Warn
from .folders import FolderStore
from .index_cache import LARGE
from .inputs.picture import left_out as unread_kinds
from .mask_classes import IGNORED, class_table, counted_as, grouped, matched
from .parquet import ParquetStore, mask_columns
from .sources import BUILT_IN, MASK_FOLDERS, files_below
from .splits import Kind, by_split, choose, hold_out
from .stores import FileStore, Store, reading

_COUNTS_FOR_NOTHING = "255 counts for nothing: write 1 for the foreground"
_LAYOUT = "images/SPLIT/a.jpg with masks/SPLIT/a.png"
Mask = npt.NDArray[np.uint8]


class MaskedDataset(Dataset):
    """Images of one split with a mask of class numbers each."""

    def __init__(
        self,
        store: Store,
        masks: Store,
        indices: npt.NDArray[np.int64],
        class_names: Sequence[str],
        table: npt.NDArray[np.uint8],
        split: str = "all",
        splits: tuple[Kind, ...] = (),
        mask_indices: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """`table` gives the class of each label in files, (256,).

        It is `IGNORED` for what counts for nothing, and one more than the last class for what must not occur.
        """
        super().__init__(store, indices, np.zeros(len(indices), np.int64), class_names, split, splits)
        self.masks, self.table = masks, table
        self.mask_indices = indices if mask_indices is None else mask_indices

    def mask(self, index: int) -> Mask:
        """The classes of an image's pixels, uint8 (height, width).

        Raises UserError naming a mask that cannot be.
        """
        return self._mask(index, self.image(index))

    def both(self, index: int) -> tuple[Image.Image, Mask]:
        """An image and its mask, of the same size."""
        image = self.image(index)
        return image, self._mask(index, image)

    def _mask(self, index: int, image: Image.Image) -> Mask:
        name = self.masks.name(int(self.mask_indices[index]))
        file = self.masks.open(int(self.mask_indices[index]))
        assert file is not None
        with file:
            labels = read_mask(file, name)
        if labels.shape != (image.height, image.width):
            raise UserError(
                f"{name} has {labels.shape[1]}x{labels.shape[0]} pixels, its image {self.name(index)} "
                f"{image.width}x{image.height}: a mask has a label for each pixel of its image"
            )
        classes = self.table[labels]
        count = len(self.class_names)
        beyond = (classes >= count) & (classes != IGNORED)
        if beyond.any():
            raise UserError(
                f"{name} has label {labels[beyond].max()}, but there are classes 0 to {_last(self.table, count)} only: "
                "name more in classes.txt, or ignore it with --ignore"
            )
        return classes

    def pixels(self, index: int, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
        """An image stretched to the model's size, its mask as the last channel: uint8 (H, W, C + 1)."""
        image, mask = self.both(index)
        pixels = preprocess.whole(image)
        resized = Image.fromarray(mask).resize(preprocess.size[::-1], Image.Resampling.NEAREST)
        return np.concatenate([pixels, np.asarray(resized)[:, :, None]], axis=2)

    def digest(self) -> str:
        found = hashlib.sha256(self.table.tobytes())
        for index in self.mask_indices:
            found.update(f"{self.masks.identity(int(index))}\n".encode(errors="surrogateescape"))
        return f"{super().digest()} {found.hexdigest()}"

    def subset(self, indices: npt.ArrayLike) -> MaskedDataset:
        chosen = np.asarray(indices, dtype=np.int64)
        return MaskedDataset(
            self.store,
            self.masks,
            self.indices[chosen],
            self.class_names,
            self.table,
            self.split,
            self.splits,
            self.mask_indices[chosen],
        )


def _last(table: npt.NDArray[np.uint8], count: int) -> int:
    """The highest label that stands for a class."""
    return int(np.flatnonzero(table < count).max(initial=0))


def read_mask(file: IO[bytes], name: str) -> Mask:
    """The labels of a mask, uint8 (height, width), as the file has them.

    Raises UserError naming it.
    """
    data = io.BytesIO(file.read())
    try:
        with Image.open(data, formats=_mask_formats()) as image:
            mode, kind = image.mode, image.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        mode, kind = "L", None  # `load_image` says what is wrong
    if kind == "JPEG":
        raise UserError(f"{name} is a JPEG, which changes labels: a mask is an 8-bit PNG of class numbers")
    if mode not in ("L", "P", "1"):
        raise UserError(
            f"{name} is an image of mode {mode}: a mask is an 8-bit PNG of class numbers, greyscale or with a palette"
        )
    data.seek(0)
    labels = np.asarray(load_image(data, name)).astype(np.uint8)
    if labels.ndim != 2:
        raise UserError(f"{name} is an icon or has colours: a mask is an 8-bit PNG of class numbers")
    return labels


@functools.cache
def _mask_formats() -> tuple[str, ...]:
    """Formats but icons, which Pillow decodes while it opens them, at any size."""
    return tuple(name for name in known_formats() if name != "ICO")


def count_images(source: str | Path, test_fraction: float | None = None) -> int:
    """Count the training images of a source, without looking into them. Raises UserError as `open_masked` does."""
    found = _find(Path(source), "train")
    if not found.hold_out:
        return len(found.indices)
    labels = np.zeros(len(found.indices), np.int64)
    return int(hold_out(labels, found.split, found.splits, test_fraction).sum())


def splits_of(source: str | Path) -> tuple[Kind, ...]:
    """Return the splits that a source has; none where all its images are in one place."""
    return _find(Path(source), "test").splits


class _Pairs(NamedTuple):
    """Images of a split and their masks."""

    store: Store
    masks: Store
    indices: npt.NDArray[np.int64]
    mask_indices: npt.NDArray[np.int64]
    names: tuple[str, ...] | None
    split: str
    hold_out: bool
    splits: tuple[Kind, ...]
    notes: tuple[str, ...]


def open_masked(
    source: str | Path,
    split: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    classes_file: str | Path | None = None,
    ignore: int | None = None,
    foreground: Sequence[str] = (),
    test_fraction: float | None = None,
    warn: Warn | None = None,
) -> MaskedDataset:
    """Open one split of images with masks (see the top of this file).

    split: train, validation, test, all, or "train+validation", the source's splits but test.
    `ignore` is a label that counts for nothing next to 255; classes above it move down by one. `foreground` names
    classes that become one class of these names, next to `OTHER` for all other pixels. `class_names` are those that an
    existing model knows: equal lists are matched by position, others by name, and labels without names count the
    model's classes. Where there is no validation split, the same part of the training images is held out as such.
    Raises UserError for an image without mask, a mask of another size, with colours or with labels beyond the classes,
    and for a split without images.
    """
    if ignore is not None and not (type(ignore) is int and 0 <= ignore <= IGNORED):
        raise UserError(f"ignore must be a label from 0 to {IGNORED}, not {ignore!r}")
    warn = warn or report
    found = _find(Path(source), split)
    if len(found.indices) == 0:
        raise UserError(f"{source} has no images in its {split} split")
    for note in found.notes:
        warn(note)
    indices, mask_indices = found.indices, found.mask_indices
    if found.hold_out:
        kept = hold_out(np.zeros(len(indices), np.int64), found.split, found.splits, test_fraction)
        indices, mask_indices = indices[kept], mask_indices[kept]
        if len(indices) == 0:
            raise UserError(f"{source} has a single image: none can be held out for validation")
    given = read_class_names(Path(classes_file)) if classes_file else found.names
    told = warn if class_names is None else None
    names = given or _numbered(found, indices, mask_indices, ignore, str(source), told)
    table, names = class_table(names, ignore, str(source), told)
    if foreground:
        table, names = grouped(table, names, foreground, str(source))
    if class_names is not None:
        match = matched if given or set(names) <= set(class_names) else counted_as
        table, names = match(table, names, class_names, str(source)), tuple(class_names)
    if not 2 <= len(names) <= MAX_LABELS:
        raise UserError(f"{source} has {counted(len(names), 'class')}: a segmentation needs 2 to {MAX_LABELS}")
    dataset = MaskedDataset(found.store, found.masks, indices, names, table, found.split, found.splits, mask_indices)
    present = _check_all(dataset)
    if present is not None and class_names is None and split in ("train", "train+validation"):
        _check_learnable(names, present, str(source), warn)
    return dataset


def _check_all(dataset: MaskedDataset) -> set[int] | None:
    """Check every pair of a set of usual size before a run.

    Returns the labels that pixels have, or None of a larger set.
    """
    if len(dataset) > LARGE:
        return None
    with ThreadPoolExecutor(min(8, allowed_cores())) as pool:
        found = pool.map(lambda index: np.flatnonzero(np.bincount(dataset.mask(index).ravel())), range(len(dataset)))
        return {int(label) for labels in found for label in labels}


def _check_learnable(names: Sequence[str], present: set[int], source: str, warn: Warn) -> None:
    """Raise UserError where all training pixels are of one class, and say which classes no pixel has."""
    learned = [name for label, name in enumerate(names) if label in present]
    if len(learned) < 2:
        hint = f"; {_COUNTS_FOR_NOTHING}" if IGNORED in present else ""
        what = f"is {learned[0]}" if learned else "counts"
        raise UserError(
            f"{source}: {'every' if learned else 'no'} training pixel {what}, and two classes are needed{hint}"
        )
    if absent := [name for name in names if name not in learned]:
        warn(f"{source}: no training pixel is {some(absent)}: the model cannot learn it")


def _numbered(
    found: _Pairs,
    indices: npt.NDArray[np.int64],
    mask_indices: npt.NDArray[np.int64],
    ignore: int | None,
    source: str,
    warn: Warn | None,
) -> tuple[str, ...]:
    """Classes without names: as many as the highest label of these masks says.

    Labels below it that no pixel has are classes that cannot be learned, which is said.
    """
    plain = MaskedDataset(
        found.store,
        found.masks,
        indices,
        ("0",) * MAX_LABELS,
        np.arange(256, dtype=np.uint8),
        mask_indices=mask_indices,
    )
    used: set[int] = set()
    for index in range(len(plain)):
        used.update(np.unique(plain.mask(index)).tolist())
    if used == {0, IGNORED}:
        raise UserError(f"{source}: its masks hold 0 and 255 alone, and {_COUNTS_FOR_NOTHING}")
    used -= {IGNORED, IGNORED if ignore is None else ignore}
    highest = max(used, default=0)
    missing = set(range(highest)) - used - {ignore}
    if missing and warn is not None:
        absent = f"no pixel has label {some([str(label) for label in sorted(missing)])}"
        warn(
            f"{source}: the labels of its masks make {highest + 1} classes, 0 to {highest}, and {absent}: name the "
            "classes in classes.txt, or check the masks"
        )
    return tuple(map(str, range(highest + 1)))


def _find(source: Path, split: str) -> _Pairs:
    """Find the images and masks of a split."""
    if str(source) in BUILT_IN:
        raise UserError(f"{source} has classes of whole images: a model that labels pixels takes {_LAYOUT}")
    with reading(source):
        if not source.exists():
            raise UserError(f"there is no {source}: give a folder, archive or parquet file of images with masks")
    suffix = source.suffix.lower()
    files = files_below(source, ".parquet") if source.is_dir() else [source] if suffix == ".parquet" else []
    if files:
        return _parquet(source, {_relative(source, file): file for file in files}, split)
    if source.is_dir():
        return _folders(FolderStore(source), split)
    if suffix in (".zip", ".tar") and source.is_file():
        return _folders(ZipStore(source) if suffix == ".zip" else TarStore(source), split)
    raise UserError(f"{source} is neither a folder nor a .parquet, .zip or .tar file")


def _relative(source: Path, file: Path) -> str:
    """Return the name of a parquet file that tells its split."""
    return file.relative_to(source).as_posix().removeprefix("data/") if source.is_dir() else file.name


def _folders(store: FileStore, split: str) -> _Pairs:
    paths = [PurePosixPath(member) for member in store.members]
    tops = {path.parts[:1] for path in paths}
    root = PurePosixPath(".")
    if ("images",) not in tops and len(tops) == 1:
        root = PurePosixPath(*tops.pop())
    below = {path.relative_to(root): index for index, path in enumerate(paths) if path.is_relative_to(root)}
    inside = {path: index for path, index in below.items() if len(path.parts) > 1}
    mask_folder = next((name for name in MASK_FOLDERS if any(path.parts[0] == name for path in inside)), None)
    images = {
        PurePosixPath(*path.parts[1:]): index
        for path, index in inside.items()
        if path.parts[0] == "images" and path.suffix.lower() in IMAGE_SUFFIXES
    }
    if mask_folder is None or not images:
        missing = "images" if not images else "masks"
        if mask_folder is None and not images and inside:
            raise UserError(
                f"{store.root} holds class folders ({some(sorted({path.parts[0] for path in inside}))}), for models "
                f"that classify; one that labels pixels takes {_LAYOUT}"
            )
        layout = _LAYOUT.replace(" with ", " go with ")
        raise UserError(f"{store.root} has no folder {missing} with files: {layout}")
    masks = {
        PurePosixPath(*path.parts[1:]).with_suffix(""): index
        for path, index in inside.items()
        if path.parts[0] == mask_folder and path.suffix.lower() in IMAGE_SUFFIXES
    }
    splits, left_out = by_split(sorted({path.parts[0] for path in images if len(path.parts) > 1}), str(store.root))
    kinds = tuple(splits)
    chosen, what, hold_out = _choose(split, kinds, str(store.root))
    tops_used = {top for kind in chosen for top in splits[kind]}
    used = sorted(path for path in images if not kinds or path.parts[0] in tops_used)
    loose = [str(path) for path in sorted(images) if kinds and len(path.parts) == 1]
    if loose:
        left_out.append(f"{store.root}: {counted(len(loose), 'image')} in no split ({some(loose)}); left out")
    stems = {path.with_suffix("") for path in images}
    if idle := [str(path) for path in sorted(masks) if path not in stems]:
        left_out.append(f"{store.root}: {counted(len(idle), 'mask')} without an image ({some(idle)}); left out")
    left_out += unread_kinds(store.root, (str(path) for path in inside if path.parts[0] == "images"))
    places = []
    for path in used:
        if path.with_suffix("") not in masks:
            raise UserError(
                f"{store.name(images[path])} has no mask: {store.root / root / mask_folder / path.with_suffix('.png')} "
                "is missing"
            )
        places.append(masks[path.with_suffix("")])
    names = None
    if PurePosixPath("classes.txt") in below:
        names = _class_names(store, below[PurePosixPath("classes.txt")])
    return _Pairs(
        store,
        store,
        np.array([images[path] for path in used], np.int64),
        np.array(places, np.int64),
        names,
        what,
        hold_out,
        kinds,
        (*store.notes, *left_out),
    )


def _choose(split: str, kinds: Sequence[Kind], source: str) -> tuple[list[Kind], str, bool]:
    """`splits.choose`, and all that is not for testing."""
    if split != "train+validation":
        return choose(split, kinds, source)
    chosen, what, _ = choose("train", kinds, source)
    return [*chosen, *(kind for kind in kinds if kind == "validation")], what, False


def _class_names(store: FileStore, index: int) -> tuple[str, ...]:
    """The names in classes.txt of a folder or archive."""
    file = store.open(index)
    assert file is not None
    with file:
        return read_class_names(Path(store.name(index)), file.read())


def _parquet(source: Path, files: Mapping[str, Path], split: str) -> _Pairs:
    splits, left_out = by_split(list(files), str(source))
    kinds = tuple(splits)
    chosen, what, hold_out = _choose(split, kinds, str(source))
    used = [files[name] for kind in chosen for name in splits[kind]] if kinds else list(files.values())
    image, annotation = mask_columns(used[0])
    for file in used[1:]:
        if mask_columns(file) != (image, annotation):
            raise UserError(f"{file} has other columns than {used[0]}")
    store, masks = ParquetStore(used, image), ParquetStore(used, annotation)
    indices = np.arange(store.starts[-1])
    classes = source / "classes.txt" if source.is_dir() else source.parent / "classes.txt"
    names = read_class_names(classes) if classes.is_file() else None
    return _Pairs(store, masks, indices, indices, names, what, hold_out, kinds, tuple(left_out))
