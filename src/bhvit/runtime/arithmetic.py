"""The float32 steps that every op of the reference is made of, each as `ops` states it."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ..bits import LANES, Floats
from ..format.program import NORM_EPS

_1 = np.float32(1)


def sum16(values: Floats) -> Floats:
    """(..., N) -> (...): the sum of each row in the order that `ops` fixes (16 lanes, then a tree)."""
    length = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], -(-length // LANES) * LANES), np.float32)
    padded[..., :length] = values
    lanes = padded[..., :LANES]
    for start in range(LANES, padded.shape[-1], LANES):
        lanes = lanes + padded[..., start : start + LANES]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def _horner(x: Floats, highest: float, *lower: float) -> Floats:
    """A polynomial of x (...), a float32 multiplication and addition a step, from its highest coefficient down."""
    value: Floats = np.full_like(x, highest)
    for coefficient in lower:
        value = value * x + np.float32(coefficient)
    return value


def exp32(x: Floats) -> Floats:
    """e^x for x <= 0 in fixed float32 steps (range reduction, polynomial of degree 6)."""
    f = np.float32
    clamped: Floats = np.maximum(x, f(-87))
    n: Floats = np.rint(clamped * f(1.44269504))
    r = (clamped - n * f(0.693359375)) - n * f(-2.12194440e-4)
    q = _horner(r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    y = (q * (r * r) + r) + _1
    return y * ((n.astype(np.int32) + 127) << 23).view(np.float32)


def erf32(v: Floats) -> Floats:
    """erf in fixed float32 steps: Abramowitz and Stegun 7.1.26, absolute error below 5e-7."""
    f = np.float32
    a: Floats = np.abs(v)
    t = _1 / (_1 + a * f(0.3275911))
    p = _horner(t, 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    r = _1 - (p * t) * exp32(-(a * a))
    signed: Floats = np.where(v < 0, -r, r)
    return signed


def layer_norm(v: Floats, scale: Floats, shift: Floats) -> Floats:
    """Layer normalisation over the last axis of v (..., C)."""
    channels = np.float32(v.shape[-1])
    centred = v - (sum16(v) / channels)[..., None]
    variance = sum16(centred * centred) / channels
    deviation: Floats = np.sqrt(variance + np.float32(NORM_EPS))
    inverse = _1 / deviation
    return (centred * inverse[..., None]) * scale + shift


def in_order(parts: Iterable[Floats]) -> Floats:
    """The sum of `parts`, added one after the other."""
    return functools.reduce(np.add, parts)


def prelu(v: Floats, slope: Floats) -> Floats:
    """v where it is positive, else v * slope."""
    return np.where(v > 0, v, v * slope)


def untile(tiles: Floats, outputs: int) -> Floats:
    """Tiles of a float layer -> (K, outputs)."""
    return tiles.transpose(1, 0, 2).reshape(tiles.shape[1], -1)[:, :outputs]


def float_linear(rows: Floats, weight: Floats, bias: Floats | float = 0.0) -> Floats:
    """(T, K) and (K, O) -> (T, O): bias, then the products in the order of the inputs, one by one."""
    y = np.broadcast_to(np.asarray(bias, np.float32), (len(rows), weight.shape[1]))
    for k in range(rows.shape[1]):
        y = y + rows[:, k : k + 1] * weight[k]
    return y


def signs(positive: npt.NDArray[np.bool_]) -> Floats:
    """Truth values -> +1 and -1."""
    return np.where(positive, _1, -_1)
