"""Finding the images, labels and class names of a source (`--data`).

Before anything is held out or checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..decode import IMAGE_SUFFIXES
from ..errors import UserError, counted, require_extra
from ..files import check_regular, is_side_file
from ..text import some
from .archives import TarStore, ZipStore
from .classes import Labels, check_distinct, check_labels, check_text, named_classes, numbered, written_otherwise
from .folders import FolderStore
from .index_cache import cache_folder
from .parquet import ParquetStore, parquet_labels, parquet_schema
from .splits import KINDS, Kind, by_split, choose, split_of
from .stores import ArrayStore, FileStore, Store, reading
from .webdataset import ShardStore, is_shard

BUILT_IN = ("digits", "cifar10", "cifar100")
MASK_FOLDERS = ("masks", "annotations", "labels")
"""Names of the folder next to `images` that holds a mask for each image."""
_COMPRESSED = (".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_DATA = (*IMAGE_SUFFIXES, ".parquet", ".arrow", ".tar", ".zip", *_COMPRESSED)
"""Endings of files that hold images: where they cannot be used, that is said."""


class Found(NamedTuple):
    """Images and labels of a split, before holding out and checks."""

    store: Store
    indices: npt.NDArray[np.int64]
    labels: Labels
    class_names: tuple[str, ...]
    split: str
    """What these images are: train, validation, test or all."""
    hold_out: bool
    """The validation images are to be held out of these."""
    splits: tuple[Kind, ...] = ()
    """The splits that the source has."""
    only_numbers: bool = False
    """The class names are only the labels' numbers."""
    notes: tuple[str, ...] = ()
    """What was left out, and why, a line each."""


def find(source: str, split: str, classes_file: Path | None) -> Found:
    """Find the images of a split.

    Raises UserError if the source is missing, damaged or of an unknown kind.
    """
    if source == "digits":
        return _digits(split)
    if source in ("cifar10", "cifar100"):
        return _cifar(source, split)
    if not source:
        raise UserError(f"the source is empty: give a folder, a parquet file, an archive, or {some(BUILT_IN)}")
    path = Path(source)
    with reading(Path(source if len(source) <= 400 else f"{source[:200]}…{source[-200:]}")):
        if not path.exists():
            raise UserError(f"there is no {source}: give a folder, a parquet file, an archive, or {some(BUILT_IN)}")
    if path.is_dir():
        with reading(path):
            files, shards = files_below(path, ".parquet"), files_below(path, ".tar")
            nested = [folder for folder in _folders(path) if not (shards and _holds_files(folder))]
        if files:
            return _parquet(path, files, split, classes_file)
        if shards and not nested:
            return _shards(path, shards, split, classes_file)
        return _without_names(_class_folders(FolderStore(path), split), path, classes_file)
    if not path.is_file():
        raise UserError(f"{source} is neither a folder nor a file, but a pipe or device")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, [path], split, classes_file)
    if suffix == ".zip":
        return _without_names(_class_folders(ZipStore(path), split), path, classes_file)
    if suffix == ".tar" and is_shard(path):
        return _shards(path, [path], split, classes_file)
    if suffix == ".tar":
        return _without_names(_class_folders(TarStore(path), split), path, classes_file)
    unpack = "; unpack it, or make a .zip or .tar of it" if suffix in _COMPRESSED else ""
    raise UserError(f"{source} is neither a folder nor a .parquet, .zip or .tar file{unpack}")


def files_below(folder: Path, ending: str) -> list[Path]:
    """Find the files of an ending, in any case.

    They lie in the folder itself, in data/, or in folders named after a split.
    """
    found = [entry for entry in _entries(folder) if entry.suffix.lower() == ending and not entry.is_dir()]
    for below in _folders(folder):
        if _holds_files(below):
            found += [entry for entry in _entries(below) if entry.suffix.lower() == ending]
    for path in found:
        check_regular(path)
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_side_file(entry.name))


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _holds_files(folder: Path) -> bool:
    """Whether a folder holds files of a split, not class folders.

    It is data/ or named after a split, and has no folders.
    """
    return (folder.name == "data" or split_of(folder.name) is not None) and not _folders(folder)


def _without_names(found: Found, path: Path, classes_file: Path | None) -> Found:
    """Class folders, with a line if names were given for them."""
    if classes_file is None:
        return found
    note = f"{path} names its classes by folders; the names in {classes_file} are not used"
    return found._replace(notes=(*found.notes, note))


def _digits(split: str) -> Found:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise require_extra("scikit-learn", "train") from None
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    labels = digits.target.astype(np.int64)
    _, what, hold_out = choose(split, ("train",), "digits")
    store, names = ArrayStore(pixels, "digits"), tuple("0123456789")
    return Found(store, np.arange(len(labels)), labels, names, what, hold_out, ("train",))


def _cifar(source: str, split: str) -> Found:
    try:
        from torchvision import datasets
    except ImportError:
        raise require_extra("torchvision", "train") from None
    cache = cache_folder()
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source]
    kinds: tuple[Kind, ...] = ("train", "test")
    chosen, what, hold_out = choose(split, kinds, source)
    try:
        opened = [kind(str(cache), train=one == "train", download=True) for one in chosen]
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot download {source} to {cache} ({reason}); give a folder or parquet files") from None
    pixels = np.concatenate([one.data for one in opened])
    labels = np.concatenate([np.asarray(one.targets, dtype=np.int64) for one in opened])
    names = tuple(opened[0].classes)
    return Found(ArrayStore(pixels, source), np.arange(len(labels)), labels, names, what, hold_out, kinds)


def _class_folders(store: FileStore, split: str) -> Found:
    """Class folders, below split folders where there are any."""
    paths = [tuple(member.split("/")) for member in store.members]
    folders = {tuple(folder.split("/")) for folder in store.folders}
    folders |= {path[:depth] for path in paths for depth in range(1, min(len(path), 4))}
    root = _root(store, paths, folders)
    tops = sorted({folder[len(root)] for folder in folders if len(folder) > len(root)})
    if not tops:
        what = "files but no class folders" if paths else "no images"
        raise UserError(f"{store.root} holds {what}: put the images of each class in a folder named after it")
    # A folder is a split only if it holds class folders itself: a class may be called "train".
    nested = [top for top in tops if split_of(top) and any(_below(folder, (*root, top)) for folder in folders)]
    splits, left_out = by_split(nested, str(store.root))
    if splits:
        left_out += [f"{store.root.joinpath(*root, top)} is no split; left out" for top in tops if top not in nested]
    kinds = tuple(splits)
    chosen, what, hold_out = choose(split, kinds, str(store.root))
    places = [(*root, top) for kind in chosen for top in splits[kind]] if kinds else [root]
    references = [(*root, top) for top in splits[kinds[0]]] if kinds else [root]  # training folders, if there are any
    names = tuple(sorted({folder[-1] for folder in folders for place in references if _below(folder, place)}))
    if not names:
        raise UserError(f"{store.root.joinpath(*references[0])} holds no class folders")
    if "images" in names and set(names) & set(MASK_FOLDERS):
        raise UserError(
            f"{store.root} holds images and their masks, for models that label pixels (`bhvit train --task segment`); "
            "one that classifies takes a folder of images for each class"
        )
    check_text(str(store.root), names)
    check_distinct(str(store.root), names)
    left_out += [
        f"{store.root}: the split {kind} is {some(splits[kind])} together" for kind in chosen if len(splits[kind]) > 1
    ]
    number = {name: label for label, name in enumerate(names)}
    indices, labels = [], []
    for index, path in enumerate(paths):
        for place in places:
            if len(path) > len(place) + 1 and path[: len(place)] == place:
                name = path[len(place)]
                if name not in number:
                    where = store.root.joinpath(*place, name)
                    hint = written_otherwise(name, names)
                    raise UserError(f"{where} is a class that {store.root.joinpath(*references[0])} lacks{hint}")
                indices.append(index)
                labels.append(number[name])
    loose = [
        store.members[index]
        for index, path in enumerate(paths)
        if (len(path) <= len(root) + 1 or (kinds and len(path) == len(root) + 2 and path[len(root)] in nested))
        and path[-1].lower().endswith(_DATA)
    ]
    if loose:
        left_out.append(
            f"{store.root}: {counted(len(loose), 'file lies', 'files lie')} in no class folder ({some(loose)}); "
            "left out"
        )
    if not kinds:
        left_out += _taken_for_classes(store, paths, len(root), names)
    if not indices:
        raise UserError(f"{' and '.join(str(store.root.joinpath(*place)) for place in places)} holds no images")
    if split in ("train", "all") and (empty := sorted(set(range(len(names))) - set(labels))):
        raise UserError(
            f"{store.root} has no images of class {some([names[label] for label in empty])}: "
            "add some, or remove the folder"
        )
    return Found(
        store,
        np.array(indices, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        names,
        what,
        hold_out,
        kinds,
        notes=(*store.notes, *left_out),
    )


def _taken_for_classes(
    store: FileStore, paths: Sequence[tuple[str, ...]], depth: int, names: Sequence[str]
) -> list[str]:
    """Return a line if the class folders, at `depth`, look like splits of other names: the same folders lie in each."""
    below: dict[str, set[str]] = {name: set() for name in names}
    for path in paths:
        if len(path) == depth + 2:
            return []  # an image lies in a class folder itself
        if len(path) > depth + 2:
            below[path[depth]].add(path[depth + 1])
    shared = sorted(set.intersection(*below.values()))
    if not shared or len(names) < 2:
        return []
    line = (
        f"{store.root}: the folders {some(names)} are taken for the classes, and {some(shared)} in each of them for "
        "nothing; if it is the other way round, name the upper ones train, val or test"
    )
    return [line]


def _root(store: FileStore, paths: Sequence[tuple[str, ...]], folders: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folder of class or split folders; archives usually hold just one."""
    tops = {folder[0] for folder in folders}
    if not isinstance(store, FolderStore) and len(tops) == 1 and any(len(path) > 2 for path in paths):
        return (tops.pop(),)
    return ()


def _below(folder: tuple[str, ...], root: tuple[str, ...]) -> bool:
    return len(folder) == len(root) + 1 and folder[: len(root)] == root


class _Files(NamedTuple):
    """The files of a split."""

    used: list[Path]
    reference: list[Path]
    """Those that tell the classes: the training files, if there are any."""
    split: str
    hold_out: bool
    splits: tuple[Kind, ...]
    left_out: tuple[str, ...]


def _files_of(source: Path, files: list[Path], split: str) -> _Files:
    named = {(file.relative_to(source) if source.is_dir() else Path(file.name)).as_posix(): file for file in files}
    if all(name.startswith("data/") for name in named):
        named = {name.removeprefix("data/"): file for name, file in named.items()}
    splits, left_out = by_split(list(named), str(source))
    if source.is_dir():
        unused = [entry for entry in _entries(source) if entry.name.lower().endswith(_DATA) and entry not in files]
        left_out += [f"{entry} is of another kind than {files[0].name}; left out" for entry in unused]
    kinds = tuple(splits)
    chosen, what, hold_out = choose(split, kinds, str(source))
    if not kinds:
        return _Files(files, files, what, hold_out, (), tuple(left_out))
    of_kind: Callable[[Kind], list[Path]] = lambda kind: [named[name] for name in splits[kind]]  # noqa: E731
    used = [file for kind in chosen for file in of_kind(kind)]
    return _Files(used, of_kind(kinds[0]), what, hold_out, kinds, tuple(left_out))


def _shards(source: Path, files: list[Path], split: str, classes_file: Path | None) -> Found:
    found = _files_of(source, files, split)
    store = ShardStore(found.used)
    if len(store.labels) == 0:
        raise UserError(f"{found.used[0]} holds no samples: an image KEY.jpg and its label KEY.cls or KEY.json")

    def reference() -> Labels:
        return store.labels if found.reference == found.used else ShardStore(found.reference).labels

    return _labelled(source, store, store.labels, named_classes(source, classes_file), reference, split, found)


def _parquet(source: Path, files: list[Path], split: str, classes_file: Path | None) -> Found:
    found = _files_of(source, files, split)
    used = found.used
    image, label, names = parquet_schema(used[0])
    for file in used[1:]:
        if parquet_schema(file) != (image, label, names):
            raise UserError(f"{file} has other columns or class names than {used[0]}")
    labels = parquet_labels(used, label)
    names = named_classes(source, classes_file) or names

    def reference() -> Labels:
        return labels if found.reference == used else parquet_labels(found.reference, label)

    return _labelled(source, ParquetStore(used, image), labels, names, reference, split, found)


def _labelled(
    source: Path,
    store: Store,
    labels: Labels,
    names: tuple[str, ...] | None,
    reference: Callable[[], Labels],
    split: str,
    found: _Files,
) -> Found:
    """A source whose labels are numbers, with or without names."""
    only_numbers = names is None
    if names is None:
        labels, names = numbered(str(source), labels, labels if split == "all" else reference())
    check_text(str(source), names)
    check_labels(str(source), labels, names)
    indices = np.arange(len(labels))
    notes = (*store.notes, *found.left_out)
    return Found(store, indices, labels, names, found.split, found.hold_out, found.splits, only_numbers, notes)


__all__ = ["BUILT_IN", "KINDS", "Found", "files_below", "find"]
