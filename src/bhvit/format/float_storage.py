"""Storage of floats in packed files: position maps, classifier weights, constants a channel.

Eight bits are a whole number and a scale a channel, symmetric about zero: a tensor (..., N, C) becomes int8 of its
shape and float32 (..., 1, C), and stands for their product in float32. A model whose spec has `float_bits` 8
rounds so in every forward pass, so that packing then rounds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .op import Op
from .schema import Kind

FloatStorage = Literal["mixed", "int8", "float16", "float32"]
"""What stays full precision: "mixed" halves the classifier's weights, which changes next to no answer; "int8" stores
those and the position maps in 8 bits, for models that were trained so; "float16" halves both, which flips signs all
the way down; "float32" halves nothing."""
LARGEST_INT8 = 127
"""Of the whole numbers that 8 bits store: the same on both sides of zero."""
_TYPES: dict[FloatStorage, tuple[type[np.generic], type[np.generic]]] = {
    "mixed": (np.float16, np.float32),
    "int8": (np.int8, np.int8),
    "float16": (np.float16, np.float16),
    "float32": (np.float32, np.float32),
}
"""Types of the classifier's weights and of position maps. Constants a channel stay float32: they are few, and place
thresholds."""

Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Type and shape of each tensor in a file."""


def layout(ops: Sequence[Op], float_storage: FloatStorage) -> Layout:
    """Return the tensors of a packed file, keyed "op name.tensor name".

    Those in 8 bits have scales of their own.
    """
    stored: Layout = {}
    for op in ops:
        for name, (kind, shape) in op.shapes().items():
            key = f"{op.name}.{name}"
            stored[key] = (_dtype(key, kind, float_storage), shape)
            if stored[key][0] == np.int8:
                stored[scale_key(key)] = (np.dtype(np.float32), scale_shape(shape))
    return stored


def _dtype(key: str, kind: Kind, float_storage: FloatStorage) -> np.dtype[Any]:
    if kind == "bits":
        return np.dtype(np.uint32)
    classifier, position = _TYPES[float_storage]
    return np.dtype(np.float32 if not is_map_or_classifier(key) else classifier if key == "head.weight" else position)


def is_map_or_classifier(key: str) -> bool:
    """Whether a tensor is one of those that `FloatStorage` decides about."""
    return key == "head.weight" or key.endswith(".position")


def scale_key(key: str) -> str:
    """The name of the scales that belong to an 8-bit tensor."""
    return f"{key}.scale"


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., N, C) -> (..., 1, C)."""
    return (*shape[:-2], 1, shape[-1])


def encode(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Floats (..., N, C) -> int8 (..., N, C) and their scales (..., 1, C).

    The largest magnitude of a channel becomes 127.
    """
    largest: npt.NDArray[np.float32] = np.abs(values).max(axis=-2, keepdims=True)
    scale = largest / np.float32(LARGEST_INT8)
    scale[scale == 0] = 1
    whole = np.clip(np.rint(values / scale), -LARGEST_INT8, LARGEST_INT8)
    return whole.astype(np.int8), scale


def decode(whole: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Decode what `encode` stored: one product, rounded once."""
    values: npt.NDArray[np.float32] = whole.astype(np.float32) * scale
    return values
