"""Finding images and labels: what `--data` names becomes a `Dataset` of one split.

A source is one of

    digits                 scikit-learn's 1,797 handwritten digits, no download
    cifar10, cifar100      by torchvision, which downloads them once
    FOLDER                 class folders of images, or train/ and val/ and test/ folders of class folders
    FOLDER or FILE.parquet the Hugging Face convention: columns image {bytes, path} and label
    FILE.zip, FILE.tar     an archive of class folders, read without unpacking
    FOLDER of .tar files   WebDataset shards (`webdataset`), or one such FILE.tar

Files and folders belong to the split that their names speak of (`splits`). Where a source has no validation split, the
same stratified part of its training images is held out, always; test images never serve as such. Files that cannot be
used are named and skipped, or refused with `strict`. Of sources of more than `index_cache.LARGE` files, the list and
what was found damaged are remembered between runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..decode import Needed
from ..errors import UserError, counted, report
from ..image import Preprocess
from ..text import some
from .classes import Labels, match_classes
from .integrity import find_damaged
from .sources import find
from .splits import Kind, hold_out
from .stores import ArrayStore, Store

SPLITS = ("train", "validation", "test", "all")

Warn = Callable[[str], None]


class Dataset:
    """Labelled images of one split. Pickles, so that loader workers can have it."""

    def __init__(
        self,
        store: Store,
        indices: npt.NDArray[np.int64],
        labels: Labels,
        class_names: Sequence[str],
        split: str = "all",
        splits: tuple[Kind, ...] = (),
    ) -> None:
        self.store, self.indices = store, indices
        self.labels = labels
        """Class of each image, int64 (N,)."""
        self.class_names = tuple(class_names)
        self.split = split
        """What the images are: train, validation, test or all. A source without test images gives validation images
        where test images were asked for."""
        self.splits = splits
        """The splits that the source has; none where all its images are in one place."""
        self.skipped: tuple[str, ...] = ()
        """What was left out as damaged, a line each."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, needed: Needed | None = None) -> Image.Image:
        """Decode image `index`, in its own mode and size. Raises UserError naming a damaged one.

        With `needed`, which `Preprocess.needed` gives, a JPEG may be decoded at a fraction of its size.
        """
        return self.store.image(int(self.indices[index]), needed)

    def pixels(self, index: int, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
        """Decode image `index` and prepare it for a model, uint8 (H, W, C)."""
        return preprocess.pixels(self.image(index, preprocess.needed))

    def name(self, index: int) -> str:
        """Return the path of an image, or what stands for one."""
        return self.store.name(int(self.indices[index]))

    def digest(self) -> str:
        """Return a digest of the images: names within the source, sizes, and labels."""
        found = hashlib.sha256(self.labels.tobytes())
        for index in self.indices:
            found.update(f"{self.store.identity(int(index))}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        """The block of each image, (N,), if shuffles should keep blocks together.

        See `stores.Store`.
        """
        blocks = self.store.blocks
        return None if blocks is None else blocks[self.indices]

    @property
    def window(self) -> int:
        """How many blocks a shuffle may mix."""
        return self.store.window

    def subset(self, indices: npt.ArrayLike) -> Dataset:
        """Return the images with these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(self.store, self.indices[chosen], self.labels[chosen], self.class_names, self.split, self.splits)


def evenly(length: int, count: int | None) -> npt.NDArray[np.int64]:
    """Return `count` positions spread evenly over `length`, ascending.

    All positions without a count, or if there are no more.
    """
    if not count or count >= length:
        return np.arange(length)
    return np.linspace(0, length - 1, count).round().astype(np.int64)


def open_dataset(
    source: str | Path,
    split: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    classes_file: str | Path | None = None,
    strict: bool = False,
    test_fraction: float | None = None,
    warn: Warn | None = None,
) -> Dataset:
    """Open one split of a source (see the top of this file): train, validation, test or all.

    Where the source has no validation split, `test_fraction` of the training images of every class are held out as
    such (default: 0.2, or 0.1 with a test split). Where it has no test split, "test" gives the validation images, and
    `Dataset.split` says so. `class_names` gives the classes an existing model knows: equal lists are matched by
    position, others by name. `classes_file` names the classes of labels that are numbers, a line each. `warn` is given
    a line for each file that is skipped (default: standard error); with `strict` the first damaged image is refused
    instead.
    Raises UserError if the source is missing, empty, damaged, or has fewer than two classes.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if test_fraction is not None and not (isinstance(test_fraction, int | float) and 0 < test_fraction < 1):
        raise UserError(f"the held-out fraction must lie between 0 and 1, not {test_fraction!r}")
    warn = warn or report
    found = find(str(source), split, Path(classes_file) if classes_file else None)
    indices, labels = found.indices, found.labels
    if len(labels) == 0:
        raise UserError(f"{source} has no images in its {split} split")
    for note in found.notes:
        warn(note)
    if found.hold_out:
        kept = hold_out(labels, found.split, found.splits, test_fraction)
        indices, labels = indices[kept], labels[kept]
        if len(labels) == 0:
            raise UserError(f"{source} has a single image of each class: none can be held out for validation")
    names = found.class_names
    if class_names is None and len(names) < 2:
        raise UserError(f"{source} has a single class ({names[0]}): a classifier needs two or more")
    if class_names is not None:
        labels = match_classes(str(source), labels, names, class_names, found.only_numbers)
        names = tuple(class_names)
    dataset = Dataset(found.store, indices, labels, names, found.split, found.splits)
    dataset = _without_damaged(dataset, str(source), strict, warn)
    if split == "train" and class_names is None and not found.only_numbers:
        counts = np.bincount(dataset.labels, minlength=len(names))
        if (counts == 0).any():
            empty = [name for name, count in zip(names, counts) if count == 0]
            raise UserError(f"{source} has no readable training images of class {some(empty)}")
    return dataset


def count_images(source: str | Path, classes_file: str | Path | None = None, test_fraction: float | None = None) -> int:
    """Count the training images of a source, without looking into them. Raises UserError as `open_dataset` does."""
    found = find(str(source), "train", Path(classes_file) if classes_file else None)
    if not found.hold_out:
        return len(found.labels)
    return int(hold_out(found.labels, found.split, found.splits, test_fraction).sum())


def splits_of(source: str | Path, classes_file: str | Path | None = None) -> tuple[Kind, ...]:
    """Return the splits that a source has; none where all its images are in one place."""
    return find(str(source), "test", Path(classes_file) if classes_file else None).splits


def _without_damaged(dataset: Dataset, source: str, strict: bool, warn: Warn) -> Dataset:
    if isinstance(dataset.store, ArrayStore):
        return dataset
    found = find_damaged(dataset.store, dataset.indices, source, first_only=strict)
    if not found:
        return dataset
    damaged = list(found.values())
    part = source if dataset.split == "all" else f"the split {dataset.split} of {source}"  # what is counted here
    if strict:
        raise UserError(f"{damaged[0]} (refused because of --strict)")
    if len(damaged) == len(dataset):
        raise UserError(f"none of the {counted(len(dataset), 'file')} of {part} is a whole image: {damaged[0]}")
    for line in damaged:
        warn(f"skipped: {line}")
    warn(f"skipped {len(damaged)} of the {counted(len(dataset), 'image')} of {part}; --strict refuses them")
    kept = dataset.subset([index for index in range(len(dataset)) if index not in found])
    kept.skipped = tuple(damaged)
    return kept
