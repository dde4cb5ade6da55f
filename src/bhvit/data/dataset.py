"""Finding images and labels: what `--data` names becomes a `Dataset` of one split.

A source is one of

    digits                 scikit-learn's 1,797 handwritten digits, no download
    cifar10, cifar100      by torchvision, which downloads them once
    FOLDER                 class folders of images, or train/ and val/ or test/ folders of class folders
    FOLDER or FILE.parquet the Hugging Face convention: columns image {bytes, path} and label; files are
                           of the split their names start with (train*, validation*, test*)
    FILE.zip, FILE.tar     an archive of class folders, read without unpacking
    FOLDER of .tar files   WebDataset shards (`shards`), of the split their names start with, or one such FILE.tar

Where a source has no held-out images, a stratified part of the training images, always the same
one, is kept apart. Damaged files are named and skipped, or refused with `strict`.
Of sources of more than `listing.LARGE` files, the list and what was found damaged are remembered between runs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UserError, require_extra
from .index_cache import cache_folder
from .integrity import find_damaged
from .stores import ArrayStore, FileStore, FolderStore, ParquetStore, Store, TarStore, ZipStore, open_parquet
from .webdataset import ShardStore, is_shard

SPLITS = ("train", "validation", "test", "all")
BUILT_IN = ("digits", "cifar10", "cifar100")
SPLIT_SEED = 0
"""Seed of the stratified split: fixed, so that no run ever trains on another run's test images."""
_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_FALLBACK = {"train": ("train",), "validation": ("validation", "test"), "test": ("test", "validation")}
"""Which split serves for which, in order of preference."""

Labels = npt.NDArray[np.int64]
Warn = Callable[[str], None]


class Dataset:
    """Labelled images of one split. Pickles, so that loader workers can have it."""

    def __init__(
        self, store: Store, indices: npt.NDArray[np.int64], labels: Labels, class_names: Sequence[str]
    ) -> None:
        self.store, self.indices = store, indices
        self.labels = labels
        """Class of each image, int64 (N,)."""
        self.class_names = tuple(class_names)
        self.skipped: tuple[str, ...] = ()
        """What was left out as damaged, a line each."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Image `index`, decoded, in its own mode and size. Raises UserError naming a damaged one."""
        return self.store.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """The path of an image, or what stands for one."""
        return self.store.name(int(self.indices[index]))

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        """The part of the source that each image is read with, (N,), if a shuffle should mind them (`stores.Store`)."""
        blocks = self.store.blocks
        return None if blocks is None else blocks[self.indices]

    @property
    def window(self) -> int:
        """How many blocks a shuffle may mix."""
        return self.store.window

    def subset(self, indices: npt.ArrayLike) -> Dataset:
        """The images with these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Dataset(self.store, self.indices[chosen], self.labels[chosen], self.class_names)


def open_dataset(
    source: str | Path,
    split: str = "train",
    *,
    class_names: Sequence[str] | None = None,
    classes_file: str | Path | None = None,
    strict: bool = False,
    test_fraction: float = 0.2,
    warn: Warn | None = None,
) -> Dataset:
    """One split of a source (see the top of this file): train, validation, test or all.

    "validation" and "test" serve for each other where a source has only one of them. Where it has
    neither, both are the same `test_fraction` of the images of every class. `class_names` gives the
    classes an existing model knows: labels are matched to them by name. `classes_file` names the
    classes of parquet labels, a line each. `warn` is given a line for each damaged image that is
    skipped (default: standard error); with `strict` the first one is refused instead.
    Raises UserError if the source is missing, empty, damaged, or has fewer than two classes.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")
    if not 0 < test_fraction < 1:
        raise UserError(f"the held-out fraction must lie between 0 and 1, not {test_fraction}")
    found = _find(str(source), split, Path(classes_file) if classes_file else None)
    indices, labels = found.indices, found.labels
    if len(labels) == 0:
        raise UserError(f"{source} has no images in its {split} split")
    if found.pooled and split != "all":
        held_out = _held_out(labels, test_fraction)
        kept = ~held_out if split == "train" else held_out
        indices, labels = indices[kept], labels[kept]
    names = found.class_names
    if class_names is None and len(names) < 2:
        raise UserError(f"{source} has a single class ({names[0]}): a classifier needs two or more")
    if class_names is not None:
        labels, names = _match_classes(str(source), labels, found, class_names), tuple(class_names)
    dataset = Dataset(found.store, indices, labels, names)
    dataset = _without_damaged(dataset, str(source), split, strict, warn or _to_stderr)
    if split == "train":
        counts = np.bincount(dataset.labels, minlength=len(names))
        if class_names is None and not found.numbered and (counts == 0).any():
            empty = [name for name, count in zip(names, counts) if count == 0]
            raise UserError(f"{source} has no readable training images of class {_some(empty)}")
    return dataset


class _Found(NamedTuple):
    """What a source holds for a split, before splitting and checking."""

    store: Store
    indices: npt.NDArray[np.int64]
    labels: Labels
    class_names: tuple[str, ...]
    pooled: bool
    """The source has no split of its own: a part of these images is to be held out."""
    numbered: bool = False
    """The class names are only the labels' numbers."""


def _find(source: str, split: str, classes_file: Path | None) -> _Found:
    if source == "digits":
        return _digits()
    if source in ("cifar10", "cifar100"):
        return _cifar(source, split)
    path = Path(source)
    if not path.exists():
        raise UserError(f"there is no {source}: give a folder, a parquet file, an archive, or {_some(BUILT_IN)}")
    if path.is_dir():
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        if files:
            return _parquet(path, files, split, classes_file)
        shards = sorted(path.glob("*.tar"))
        if shards and not any(entry.is_dir() for entry in path.iterdir()):
            return _shards(path, shards, split, classes_file)
        return _class_folders(FolderStore(path), split)
    if path.suffix.lower() == ".parquet":
        return _parquet(path, [path], split, classes_file)
    if path.suffix.lower() == ".zip":
        return _class_folders(ZipStore(path), split)
    if path.suffix.lower() == ".tar":
        return _shards(path, [path], split, classes_file) if is_shard(path) else _class_folders(TarStore(path), split)
    raise UserError(f"{source} is neither a folder nor a .parquet, .zip or .tar file")


def _digits() -> _Found:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise require_extra("scikit-learn", "train") from None
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    labels = digits.target.astype(np.int64)
    return _Found(ArrayStore(pixels, "digits"), np.arange(len(labels)), labels, tuple("0123456789"), pooled=True)


def _cifar(source: str, split: str) -> _Found:
    try:
        from torchvision import datasets
    except ImportError:
        raise require_extra("torchvision", "train") from None
    cache = cache_folder()
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    try:
        parts = [
            kind(str(cache), train=train, download=True)
            for train in (True, False)
            if split == "all" or train == (split == "train")
        ]
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot download {source} to {cache} ({reason}); give a folder or parquet files") from None
    pixels = np.concatenate([part.data for part in parts])
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts])
    return _Found(ArrayStore(pixels, source), np.arange(len(labels)), labels, tuple(parts[0].classes), pooled=False)


def _class_folders(store: FileStore, split: str) -> _Found:
    """Class folders, below split folders where there are any."""
    paths = [tuple(member.split("/")) for member in store.members]
    folders = {tuple(folder.split("/")) for folder in store.folders}
    folders |= {path[:depth] for path in paths for depth in range(1, min(len(path), 4))}
    root: tuple[str, ...] = ()
    tops = {folder[0] for folder in folders}
    if not isinstance(store, FolderStore) and len(tops) == 1 and any(len(path) > 2 for path in paths):
        root = (tops.pop(),)  # archives usually hold one folder that holds the rest
    tops = {folder[len(root)] for folder in folders if len(folder) > len(root)}
    if not tops:
        what = "files but no class folders" if paths else "no images"
        raise UserError(f"{store.root} holds {what}: put the images of each class in a folder named after it")
    own = {kind: next((top for top in sorted(tops) if top.lower() in names), None) for kind, names in _FOLDERS.items()}
    if any(own.values()):
        kinds = [kind for kind in ("train", "validation", "test") if own[kind]]
        reference = (*root, str(own[kinds[0]]))  # the training folder's classes, if there is one
        chosen, pooled = _choose(split, kinds, str(store.root))
        places = [(*root, str(own[kind])) for kind in chosen]
    else:
        reference, places, pooled = root, [root], True
    names = tuple(sorted({folder[len(reference)] for folder in folders if _below(folder, reference)}))
    if not names:
        raise UserError(f"{store.root.joinpath(*reference)} holds no class folders")
    number = {name: label for label, name in enumerate(names)}
    indices, labels = [], []
    for index, path in enumerate(paths):
        for place in places:
            if len(path) > len(place) + 1 and path[: len(place)] == place:
                name = path[len(place)]
                if name not in number:
                    where = store.root.joinpath(*place, name)
                    raise UserError(f"{where} is a class that {store.root.joinpath(*reference)} lacks")
                indices.append(index)
                labels.append(number[name])
    if not indices:
        raise UserError(f"{' and '.join(str(store.root.joinpath(*place)) for place in places)} holds no images")
    if split in ("train", "all") and (empty := sorted(set(range(len(names))) - set(labels))):
        raise UserError(
            f"{store.root} has no images of class {_some([names[label] for label in empty])}: "
            "add some, or remove the folder"
        )
    return _Found(store, np.array(indices, dtype=np.int64), np.array(labels, dtype=np.int64), names, pooled)


def _below(folder: tuple[str, ...], root: tuple[str, ...]) -> bool:
    return len(folder) == len(root) + 1 and folder[: len(root)] == root


def _choose(split: str, kinds: list[str], source: str) -> tuple[list[str], bool]:
    """Which of the splits that a source has serve for `split`, and whether they must be split further."""
    if split == "all":
        return kinds, False
    for kind in _FALLBACK[split]:
        if kind in kinds:
            return [kind], kind == "train" and len(kinds) == 1
    if split == "train":
        raise UserError(f"{source} has no training images, only {_some(kinds)}")
    return ["train"], True


def _files_of(source: Path, files: list[Path], split: str) -> tuple[list[Path], list[Path], bool]:
    """The files of a split, by what their names start with; those that tell the classes; whether to split further."""
    by_kind: dict[str, list[Path]] = {}
    stems = {file: re.sub(r"-\d+(-of-\d+)?$", "", file.stem.lower()) for file in files}
    for kind, prefixes in _FOLDERS.items():
        # test_lossless.parquet beside test.parquet is another set: exact names come before beginnings.
        exact = [file for file in files if stems[file] in prefixes]
        by_kind[kind] = exact or [file for file in files if stems[file].startswith(kind)]
    kinds = [kind for kind, of_kind in by_kind.items() if of_kind]
    if kinds:
        chosen, pooled = _choose(split, kinds, str(source))
        return [file for kind in chosen for file in by_kind[kind]], by_kind[kinds[0]], pooled
    return files, files, split != "all"


def _shards(source: Path, files: list[Path], split: str, classes_file: Path | None) -> _Found:
    used, reference, pooled = _files_of(source, files, split)
    store = ShardStore(used)
    labels = store.labels
    if len(labels) == 0:
        raise UserError(f"{used[0]} holds no samples: an image KEY.jpg and its label KEY.cls or KEY.json")
    named = _named_classes(source, classes_file)
    highest = max(int(labels.max()), int((store if reference == used else ShardStore(reference)).labels.max(initial=0)))
    names = named or tuple(str(number) for number in range(highest + 1))
    _refuse_beyond(source, labels, names)
    return _Found(store, np.arange(len(labels)), labels, names, pooled, numbered=named is None)


def _named_classes(source: Path, classes_file: Path | None) -> tuple[str, ...] | None:
    """Class names from a file that is given, or lies in the source as classes.txt."""
    if classes_file is None and source.is_dir() and (source / "classes.txt").is_file():
        classes_file = source / "classes.txt"
    return None if classes_file is None else _read_classes(classes_file)


def _refuse_beyond(source: Path, labels: Labels, names: tuple[str, ...]) -> None:
    if labels.max(initial=0) >= len(names):
        raise UserError(f"{source} has label {labels.max()}, but {len(names)} class names (0 to {len(names) - 1})")


def _parquet(source: Path, files: list[Path], split: str, classes_file: Path | None) -> _Found:
    used, reference, pooled = _files_of(source, files, split)
    image, label, names = _parquet_schema(used[0])
    for file in used[1:]:
        if _parquet_schema(file) != (image, label, names):
            raise UserError(f"{file} has other columns or class names than {used[0]}")
    labels = _parquet_labels(used, label)
    if classes_file is not None or names is None:
        names = _named_classes(source, classes_file)
    numbered = names is None
    if names is None:
        highest = max(int(labels.max(initial=0)), int(_parquet_labels(reference, label).max(initial=0)))
        names = tuple(str(number) for number in range(highest + 1))
    _refuse_beyond(source, labels, names)
    return _Found(ParquetStore(used, image), np.arange(len(labels)), labels, names, pooled, numbered)


def _parquet_schema(path: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """The image column, the label column and the class names that the file's metadata give."""
    import pyarrow

    schema = open_parquet(path).schema_arrow
    image = next((name for name in ("image", "img") if name in schema.names), None)
    label = next((name for name in ("label", "labels", "fine_label") if name in schema.names), None)
    if image is None or label is None:
        missing = "image {bytes, path}" if image is None else "label"
        raise UserError(f"{path} lacks the column {missing}; it has {_some(schema.names)}")
    kind = schema.field(image).type
    binary = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    holder = kind.field("bytes").type if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not any(test(holder) for test in binary):
        raise UserError(f"{path}: column {image} is {kind}, not encoded images {{bytes, path}}")
    if not pyarrow.types.is_integer(schema.field(label).type):
        raise UserError(f"{path}: column {label} is {schema.field(label).type}, not whole numbers")
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return image, label, tuple(str(name) for name in names)
    except (KeyError, ValueError, TypeError):
        return image, label, None


def _parquet_labels(files: Sequence[Path], column: str) -> Labels:
    parts = []
    for path in files:
        try:
            values: Any = open_parquet(path).read(columns=[column]).column(column)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
        if values.null_count:
            raise UserError(f"{path}: {values.null_count} of its labels are missing")
        labels = values.to_numpy().astype(np.int64)
        if (labels < 0).any():
            raise UserError(f"{path}: label {labels.min()} is negative; labels count from 0")
        parts.append(labels)
    return np.concatenate(parts)


def _read_classes(path: Path) -> tuple[str, ...]:
    """Class names, a line each: a name, or number, tab, optional columns, tab, name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the class names in {path}: {error}") from None
    columns = [line.split("\t") for line in lines if line.strip()]
    if not columns:
        raise UserError(f"{path} holds no class names")
    if any(len(fields) > 1 and fields[0] != str(number) for number, fields in enumerate(columns)):
        raise UserError(f"{path}: with more columns than one, the first must count 0, 1, 2, …")
    return tuple(fields[-1].strip() for fields in columns)


def _held_out(labels: Labels, fraction: float) -> npt.NDArray[np.bool_]:
    """Which images are kept apart: a fraction of every class, at least one of two."""
    generator = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held_out[generator.permutation(members)[:count]] = True
    return held_out


def _match_classes(source: str, labels: Labels, found: _Found, known: Sequence[str]) -> Labels:
    """The labels as the numbers that the classes `known` have."""
    if found.numbered:
        if labels.max(initial=0) >= len(known):
            raise UserError(f"{source} has label {labels.max()}, but the model knows {len(known)} classes")
        return labels
    number = {name: label for label, name in enumerate(known)}
    used = [found.class_names[label] for label in np.unique(labels)]
    if unknown := [name for name in used if name not in number]:
        raise UserError(f"{source} has classes the model does not know: {_some(unknown)}; it knows {_some(known)}")
    table = np.array([number.get(name, -1) for name in found.class_names], dtype=np.int64)
    return np.asarray(table[labels])


def _without_damaged(dataset: Dataset, source: str, split: str, strict: bool, warn: Warn) -> Dataset:
    if isinstance(dataset.store, ArrayStore):
        return dataset
    found = find_damaged(dataset.store, dataset.indices, source, first_only=strict)
    if not found:
        return dataset
    damaged = list(found.values())
    part = source if split == "all" else f"the split {split} of {source}"  # what is counted here
    if strict:
        raise UserError(f"{damaged[0]} (refused because of --strict)")
    if len(damaged) == len(dataset):
        raise UserError(f"none of the {len(dataset)} files of {part} is a whole image: {damaged[0]}")
    for line in damaged:
        warn(f"skipped: {line}")
    warn(f"skipped {len(damaged)} of the {len(dataset)} images of {part}; --strict refuses them")
    kept = dataset.subset([index for index in range(len(dataset)) if index not in found])
    kept.skipped = tuple(damaged)
    return kept


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
