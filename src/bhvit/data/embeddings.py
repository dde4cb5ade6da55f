"""Uses of features: finding near duplicates, choosing images to label next."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import UserError

Features: TypeAlias = "npt.NDArray[np.floating[Any]]"
SIMILARITY = 0.98
"""Cosine from which images are taken for near duplicates, by default."""
MAX_PAIRS = 1_000_000
"""Pairs of near duplicates that are listed at most: of many equal images there are half their number squared."""
_BLOCK = 1024


class Pair(NamedTuple):
    """Two images that look alike to the model."""

    first: int
    second: int
    similarity: float
    """Cosine of their features."""


def near_duplicates(features: Features, similarity: float = SIMILARITY) -> list[Pair]:
    """Return the pairs of images of such a cosine or more, nearest first.

    Images are numbered by their rows in `features` (N, C).

    Raises UserError for a similarity outside of -1 to 1, and for more than `MAX_PAIRS` pairs.
    """
    if not -1 <= similarity <= 1:
        raise UserError(f"a similarity is a cosine, from -1 to 1, not {similarity}")
    unit = _unit(features)
    pairs: list[Pair] = []
    starts = range(0, len(unit), _BLOCK)
    for start, other in itertools.combinations_with_replacement(starts, 2):
        cosines = unit[start : start + _BLOCK] @ unit[other : other + _BLOCK].T
        near = cosines >= similarity
        rows, columns = np.nonzero(np.triu(near, k=1) if start == other else near)
        if len(pairs) + len(rows) > MAX_PAIRS:
            raise UserError(
                f"more than {MAX_PAIRS} pairs of images have a similarity of {similarity:g} or more: ask for a higher "
                "one, or give fewer images"
            )
        pairs += [
            Pair(start + int(row), other + int(column), min(1.0, float(cosines[row, column])))
            for row, column in zip(rows, columns, strict=True)
        ]
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def k_centres(features: Features, count: int, known: Features | None = None) -> list[int]:
    """Return `count` rows of `features` (N, C) that cover the others best.

    By k-centre greedy (Sener and Savarese, ICLR 2018).

    Each is the one farthest, by cosine, from all chosen before it and from `known` (M, C), features of images that are
    labelled already; without these the first is the one nearest to the mean. Fewer than `count` where there are fewer.
    Raises UserError if the features are of different models.
    """
    unit = _unit(features)
    if known is not None and len(known) and known.shape[1] != features.shape[1]:
        raise UserError(
            f"the labelled images have features of {known.shape[1]} numbers, the others of {features.shape[1]}: "
            "they must come from one model"
        )
    if not len(unit) or count < 1:
        return []
    chosen: list[int] = []
    if known is not None and len(known):
        nearest = np.full(len(unit), -np.inf)
        others = _unit(known)
        for start in range(0, len(others), _BLOCK):
            for row in range(0, len(unit), _BLOCK):
                rows = slice(row, row + _BLOCK)
                cosines = unit[rows] @ others[start : start + _BLOCK].T
                nearest[rows] = np.maximum(nearest[rows], cosines.max(axis=1))
    else:
        chosen.append(int((unit @ unit.mean(axis=0)).argmax()))
        nearest = unit @ unit[chosen[0]]
        nearest[chosen[0]] = np.inf
    while len(chosen) < min(count, len(unit)):
        index = int(nearest.argmin())
        chosen.append(index)
        nearest = np.maximum(nearest, unit @ unit[index])
        nearest[index] = np.inf
    return chosen


def _unit(features: Features) -> npt.NDArray[np.float64]:
    doubles = np.asarray(features, np.float64)
    return np.asarray(doubles / np.maximum(np.linalg.norm(doubles, axis=1, keepdims=True), 1e-30))
