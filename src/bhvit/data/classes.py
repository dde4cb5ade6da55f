"""Names of classes: reading them, checking them, matching labels to those that a model knows."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError, counted
from ..files import check_regular
from ..spec.limits import LIMITS
from ..text import some

Labels = npt.NDArray[np.int64]


def read_class_names(path: Path, data: bytes | None = None) -> tuple[str, ...]:
    """Read class names, a line each: a name, or number, tab, optional columns, tab, name.

    `data` is what the file holds, where `path` is a member of an archive.

    Raises UserError if the file cannot be read, is empty, has an empty line before its last name, or does not count its
    classes from 0.
    """
    try:
        if data is None:
            check_regular(path)
            data = path.read_bytes()
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    except OSError as error:
        raise UserError(f"cannot read the class names in {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the class names in {path} are not UTF-8: {error}") from None
    if lines == [""]:
        raise UserError(f"{path} holds no class names")
    columns = [line.split("\t") for line in lines]
    if nameless := [str(number) for number, fields in enumerate(columns, 1) if not fields[-1].strip()]:
        raise UserError(f"{path} has no name in line {some(nameless)}: each line names a class")
    if any(len(fields) > 1 and fields[0] != str(number) for number, fields in enumerate(columns)):
        raise UserError(f"{path}: with more columns than one, the first must count 0, 1, 2, …")
    return tuple(fields[-1].strip() for fields in columns)


def by_class(names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return values by the names of their classes; a name that several classes have is followed by their number."""
    several = {name for name, count in Counter(names).items() if count > 1}
    keys = (f"{name} ({label})" if name in several else name for label, name in enumerate(names))
    return dict(zip(keys, values))


def named_classes(source: Path, classes_file: Path | None) -> tuple[str, ...] | None:
    """Read class names from `classes_file` or the source's classes.txt; None without either."""
    if classes_file is None and source.is_dir() and (source / "classes.txt").is_file():
        classes_file = source / "classes.txt"
    return None if classes_file is None else read_class_names(classes_file)


def check_text(source: str, names: Sequence[str]) -> None:
    """Raises UserError for a class name that is not UTF-8.

    No file or page could hold it.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{source}: the class name {name!r} is not UTF-8; rename its folder") from None


def check_distinct(source: str, names: Sequence[str]) -> None:
    """Raises UserError for two class folders whose names look the same.

    They differ only in how accents are stored.
    """
    seen: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name)
        if seen.setdefault(plain, name) != name:
            raise UserError(f"{source} has two classes {plain} whose names store their accents in two ways: join them")


def written_otherwise(name: str, names: Sequence[str]) -> str:
    """Suggest the one of `names` that differs in case, spaces or accents.

    The text follows "there is no class …" in a message; empty without such a name.
    """
    for other in names:
        if _plain(other) == _plain(name):
            how = "in capitals" if _plain(other, fold=False) != _plain(name, fold=False) else "in its spaces or accents"
            return f"; {other} differs only {how}: rename one of them"
    return ""


def _plain(name: str, fold: bool = True) -> str:
    name = unicodedata.normalize("NFC", name.strip())
    return name.casefold() if fold else name


def check_labels(source: str, labels: Labels, names: Sequence[str]) -> None:
    """Raises UserError for a label that has no name."""
    if len(labels) and labels.max() >= len(names):
        raise UserError(
            f"{source} has label {labels.max()}, but {counted(len(names), 'class name')} (0 to {len(names) - 1})"
        )


def numbered(source: str, labels: Labels, reference: Labels) -> tuple[Labels, tuple[str, ...]]:
    """Number the classes of labels without names by the training labels `reference`.

    The numbers become names, in order, so that 1, 2, 5 are three classes. Raises UserError for a label that no training
    image has, and for more classes than a model can have.
    """
    numbers = np.unique(reference)
    if not len(numbers):
        raise UserError(f"{source} has no training images, so its labels have no classes")
    if len(numbers) > LIMITS["classes"]:
        raise UserError(
            f"{source} has {len(numbers)} different labels; a model has at most {LIMITS['classes']} classes"
        )
    places = np.searchsorted(numbers, labels)
    unknown = (places == len(numbers)) | (numbers[np.minimum(places, len(numbers) - 1)] != labels)
    if unknown.any():
        raise UserError(f"{source} has label {labels[unknown][0]}, which no training image has")
    return places.astype(np.int64), tuple(map(str, numbers))


def match_classes(
    source: str, labels: Labels, names: Sequence[str], known: Sequence[str], only_numbers: bool
) -> Labels:
    """Return the labels as the numbers that the classes `known` have.

    Equal lists are matched by position, others by name, which must then be unique. Labels that are only numbers count
    the model's classes if those have other names. Raises UserError for classes that the model does not know.
    """
    if tuple(names) == tuple(known):
        return labels
    if only_numbers and not set(names) <= set(known):
        numbers = np.array([int(name) for name in names], dtype=np.int64)
        used = numbers[labels]
        if used.max(initial=0) >= len(known):
            raise UserError(f"{source} has label {used.max()}, but the model knows {counted(len(known), 'class')}")
        return used
    for whose, listed in (("the data", names), ("the model", known)):
        if twice := [name for name, count in Counter(listed).items() if count > 1]:
            raise UserError(
                f"{source}: {some(twice)} names several classes of {whose}, whose list differs from the other's; "
                "give every class a name of its own"
            )
    number = {name: label for label, name in enumerate(known)}
    used_names = [names[label] for label in np.unique(labels)]
    if unknown := [name for name in used_names if name not in number]:
        raise UserError(f"{source} has classes the model does not know: {some(unknown)}; it knows {some(known)}")
    table = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    return np.asarray(table[labels])
