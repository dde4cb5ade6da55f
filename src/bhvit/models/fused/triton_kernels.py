"""Triton kernels of a training step on a GPU, between two matrix products: one pass over memory each.

Tokens are rows (rows, channels), contiguous. Arithmetic is in ACC: float32, or float64 for float64 tensors.
`triton_calls.PROGRAMS` programs sum over rows and each stores its own partial sum, so results do not depend on the
order in which programs end.
"""

from __future__ import annotations

from .triton_grids import cross, cross_sums
from .triton_signs import binarise, binarise_backward, signs, signs_backward, softmax_levels, softmax_levels_backward
from .triton_units import column_moments, finish_moments, unit, unit_gradients, unit_sums

__all__ = [
    "binarise",
    "binarise_backward",
    "column_moments",
    "cross",
    "cross_sums",
    "finish_moments",
    "signs",
    "signs_backward",
    "softmax_levels",
    "softmax_levels_backward",
    "unit",
    "unit_gradients",
    "unit_sums",
]
