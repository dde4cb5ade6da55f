"""Splits by the names of files and folders, and held-out images without them.

One rule for folders, parquet files, shards and archives: a name belongs to a split if one of its words, in any case and
at any place, says so: `train`, `Train-00000`, `photos_val_3`, `my.test.tar`, `ValImages`, `test/0.tar`. Words are runs
of letters, and what capitals part within them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..text import some

Kind = Literal["train", "validation", "test"]
KINDS: tuple[Kind, ...] = ("train", "validation", "test")
HELD_OUT = 0.2
"""Share of the training images held out for validation where a source has no other split."""
HELD_OUT_BESIDES_TEST = 0.1
"""The same where a source has test images of its own: the held-out ones need only choose a model, not judge it."""
SPLIT_SEED = 0
"""Seed of what is held out: fixed, so that no run ever trains on another run's validation images."""
_WORDS: dict[str, Kind] = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "valset": "validation",
    "devset": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
}


def split_of(name: str) -> Kind | None:
    """Return the split that a name speaks of, None if it speaks of none.

    Raises UserError if of several.
    """
    humps = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", _stem(name))]
    kinds = {_WORDS[word] for word in (*_words(name), *humps) if word in _WORDS}
    if len(kinds) > 1:
        raise UserError(f"{name} names several splits ({' and '.join(sorted(kinds))}): rename it after one")
    return kinds.pop() if kinds else None


def by_split(names: Sequence[str], source: str) -> tuple[dict[Kind, list[str]], list[str]]:
    """Return the names of each split, and a line for each left out.

    No splits if no name speaks of one.

    Of a split, names of nothing but its word come before longer ones: test_lossless.parquet next to test.parquet is
    another set.
    """
    found: dict[Kind, list[str]] = {}
    others = []
    for name in names:
        kind = split_of(name)
        found.setdefault(kind, []).append(name) if kind else others.append(name)
    if not found:
        return {}, []
    left_out = [f"{source}: {name} fits no split, although others do; left out" for name in others]
    for kind, members in found.items():
        exact = [name for name in members if len(set(_words(name))) == 1 and _words(name)[0] in _WORDS]
        if exact and len(exact) < len(members):
            left_out += [
                f"{source}: {name} is left out of the split {kind}, which {exact[0]} is named after"
                for name in members
                if name not in exact
            ]
            found[kind] = exact
    return {kind: found[kind] for kind in KINDS if kind in found}, left_out


def choose(split: str, kinds: Sequence[Kind], source: str) -> tuple[list[Kind], Kind | Literal["all"], bool]:
    """Choose the source's splits that serve for `split`.

    Returns them, what they are, and whether images must be held out of them.

    Validation images are a split of their own or held out of the training images; test images never serve as such.
    Where there are no test images, "test" takes the validation images, which the second value then says.
    Raises UserError if a source has splits, but no training images.
    """
    if split == "all":
        return list(kinds), "all", False
    if split == "test" and "test" in kinds:
        return ["test"], "test", False
    if split != "train" and "validation" in kinds:
        return ["validation"], "validation", False
    if kinds and "train" not in kinds:
        raise UserError(f"{source} has no training images, only {some(kinds)}")
    held_out = "validation" not in kinds
    return (["train"] if kinds else []), ("train" if split == "train" else "validation"), held_out


def held_out(labels: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.bool_]:
    """Choose the images to hold out, (N,): the same fraction of every class.

    At least one of two; always the same ones.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        chosen[generator.permutation(members)[:count]] = True
    return chosen


def hold_out(
    labels: npt.NDArray[np.int64], split: str, kinds: Sequence[Kind], fraction: float | None
) -> npt.NDArray[np.bool_]:
    """Choose the images of `split` where validation images are held out of the training images, (N,).

    `fraction` of them, by default `HELD_OUT`, or `HELD_OUT_BESIDES_TEST` of a source with test images.
    """
    usual = HELD_OUT_BESIDES_TEST if "test" in kinds else HELD_OUT
    chosen = held_out(labels, usual if fraction is None else fraction)
    return ~chosen if split == "train" else chosen


def _words(name: str) -> list[str]:
    """Runs of letters of a name, in lower case."""
    return re.findall(r"[a-z]+", _stem(name).lower())


def _stem(name: str) -> str:
    """A name without its ending; "-00000-of-00002" is a number."""
    return re.sub(r"\d+-of-\d+", "", re.sub(r"\.(parquet|tar|zip)$", "", name, flags=re.IGNORECASE))
