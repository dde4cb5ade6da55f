"""Triton kernels of a training step on a GPU, between two matrix products: one pass over memory each.

Tokens are rows (rows, channels), contiguous. Numbers are computed in ACC: float32, or float64 for tensors of it. Sums
over rows are made by as many programs as `triton_calls.PROGRAMS`, each of which stores its own, so that they do not
depend on the order in which programs end.
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
