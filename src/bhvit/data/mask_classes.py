"""The classes of masks: which class each label in files stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import UserError, counted
from ..spec.model import MAX_LABELS
from ..text import some

IGNORED = 255
"""Label of pixels that count for nothing, in every mask that is handed out."""
OTHER = "other"
"""Name of the class of all pixels that are not foreground."""
_UNLABELLED = {"unlabelled", "unlabeled", "void", "ignore", "ignored"}


def class_table(
    names: Sequence[str], ignore: int | None, source: str, warn: Callable[[str], None] | None
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """The class of each label, (256,), and the classes' names, without those that are ignored."""
    unlabelled = [label for label, name in enumerate(names) if name.lower() in _UNLABELLED]
    if unlabelled and warn is not None and ignore not in unlabelled:
        warn(f"{source}: pixels of {some([names[label] for label in unlabelled])} are ignored")
    left_out = {IGNORED, *unlabelled, *(() if ignore is None else (ignore,))}
    kept = [label for label in range(len(names)) if label not in left_out]
    if len(kept) > MAX_LABELS:
        raise UserError(f"{source} has {len(kept)} classes: a segmentation has at most {MAX_LABELS}")
    table = np.full(256, min(len(kept), IGNORED - 1), np.uint8)
    table[kept] = np.arange(len(kept))
    table[list(left_out)] = IGNORED
    return table, tuple(names[label] for label in kept)


def grouped(
    table: npt.NDArray[np.uint8], names: tuple[str, ...], foreground: Sequence[str], source: str
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Classes as `OTHER` and the foreground."""
    if twice := sorted(name for name, count in Counter(foreground).items() if count > 1):
        raise UserError(f"foreground names {some(twice)} more than once")
    if unknown := [name for name in foreground if name not in names]:
        raise UserError(f"{source} has no class {some(unknown)} for the foreground; it has {some(names)}")
    groups = np.array([1 if name in foreground else 0 for name in names], np.uint8)
    return _through(table, groups, 2), (OTHER, "+".join(foreground))


def matched(
    table: npt.NDArray[np.uint8], names: tuple[str, ...], known: Sequence[str], source: str
) -> npt.NDArray[np.uint8]:
    """The table in the order of the classes that a model knows."""
    if tuple(known) == names:
        return table
    number = {name: label for label, name in enumerate(known)}
    number |= {part: label for name, label in list(number.items()) for part in name.split("+") if part not in number}
    other = number.get(OTHER) if len(known) == 2 else None
    if other is None and (unknown := [name for name in names if name not in number]):
        raise UserError(
            f"{source} has classes the model does not know: {some(unknown)}; it knows {some(known)}; "
            "--ignore N leaves out a label that it was trained without"
        )
    if other is not None and not any(number.get(name, other) != other for name in names):
        foreground = [name for name in known if name != OTHER]
        raise UserError(
            f"{source} has no class {some(foreground)}, which the model tells from all others; it has {some(names)}"
        )
    return _through(table, np.array([number.get(name, other) for name in names], np.uint8), len(known))


def counted_as(
    table: npt.NDArray[np.uint8], numbers: Sequence[str], known: Sequence[str], source: str
) -> npt.NDArray[np.uint8]:
    """The table where labels without names count the classes that a model knows."""
    if len(numbers) > len(known):
        raise UserError(f"{source} has label {numbers[-1]}, but the model knows {counted(len(known), 'class')}")
    return _through(table, np.arange(len(numbers), dtype=np.uint8), len(known))


def _through(table: npt.NDArray[np.uint8], classes: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """The table with its classes renumbered."""
    after = np.full(256, min(count, IGNORED - 1), np.uint8)
    after[: len(classes)] = classes
    after[IGNORED] = IGNORED
    return after[table]
