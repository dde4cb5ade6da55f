"""The float32 steps of all ops in NumPy, each as `program` states it.

Shapes: H, W tokens; T tokens in rows; C channels; K inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bits import LANES, Floats, Words, binary_dot, pack_bits, unpack_signs, untile_weights
from .op import Op

Tensors = Mapping[str, npt.NDArray[Any]]
TAPS = ((0, 0), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -1), (0, 1), (0, -2), (0, 2))
"""(rows, columns) of the 9-tap cross: tap k reads the token at that offset."""
NORM_EPS = 1e-5
"""eps of layer normalisation, added in float32."""
Observer = Callable[[str, npt.NDArray[Any], Floats], None]
"""Is told of every decision: what it is for, what was chosen (bits or levels), and how far the value was from
where the choice changes."""
observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
_1 = np.float32(1)


def sum16(values: Floats) -> Floats:
    """(..., N) -> (...): the sum of each row in the order that `program` fixes (16 lanes, then a tree)."""
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
    """Evaluate a polynomial of x (...) by Horner's rule in float32.

    Coefficients are given from the highest down; each step rounds a product and a sum.
    """
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
    """(T, K) and (K, O) -> (T, O): bias, then products in order of inputs."""
    y = np.broadcast_to(np.asarray(bias, np.float32), (len(rows), weight.shape[1]))
    for k in range(rows.shape[1]):
        y = y + rows[:, k : k + 1] * weight[k]
    return y


def signs(positive: npt.NDArray[np.bool_]) -> Floats:
    """Truth values -> +1 and -1."""
    return np.where(positive, _1, -_1)


def decide(what: str, v: Floats, threshold: Floats | float) -> npt.NDArray[np.bool_]:
    """Return v >= threshold, and tell the observer."""
    bits = v >= threshold
    if note := observer.get():
        note(what, bits, v - np.float32(threshold))
    return bits


def norm(op: Op, t: Tensors, name: str, v: Floats) -> Floats:
    """`norm` of `program`, with the tensors name_scale and name_shift."""
    scale, shift = t[f"{name}_scale"], t[f"{name}_shift"]
    return layer_norm(v, scale, shift) if op.option("norm") == "layer" else v * scale + shift


def linear(op: Op, t: Tensors, v: Floats, names: str, threshold: str = "", shift: str = "", what: str = "") -> Floats:
    """`linear` of `program`: v (T, K) -> (T, O).

    `names` makes the names of the layer's tensors.
    """
    scale, tiles = t[names.format("scale")], t[names.format("weight")]
    what = what or names.format("").strip("_")
    y = product(op, v, tiles, t[threshold or names.format("threshold")], len(scale), what)
    offset = t[shift or names.format("shift")]
    if op.option("norm") == "layer":
        return layer_norm(y * t[names.format("weight_scale")], scale, offset)
    return y * scale + offset


def product(op: Op, v: Floats, tiles: npt.NDArray[Any], threshold: Floats, outputs: int, what: str) -> Floats:
    """`product` of `program`: v (T, K) -> (T, outputs). `what` names the decision."""
    if op.option("activations") == "float":
        a = v - threshold
    else:
        bits = decide(what, v, threshold)
        if op.option("weights") == "binary":
            return binary_dot(pack_bits(bits), untile_weights(tiles, outputs), v.shape[1]).astype(np.float32)
        a = signs(bits)
    return float_linear(a, numbers(op, tiles, outputs, v.shape[1]))


def conv(op: Op, n: Floats, tiles: npt.NDArray[Any], groups: int, dilation: int) -> Floats:
    """`product` of a grouped dilated 3x3 convolution with threshold 0: n (H, W, C) -> (H, W, C)."""
    if op.option("activations") == op.option("weights") == "binary":
        return binary_conv(decide("bits", n, 0), tiles, groups, dilation).astype(np.float32)
    a = n if op.option("activations") == "float" else signs(decide("bits", n, 0))
    height, width, channels = n.shape
    inputs = channels // groups
    weights = numbers(op, tiles, channels, 9 * inputs).T.reshape(groups, inputs, 9, inputs)
    y = np.zeros((height, width, groups, inputs), np.float32)
    a = a.reshape(height, width, groups, inputs)
    for tap in range(9):
        to, source = inside(n.shape, (tap // 3 - 1) * dilation, (tap % 3 - 1) * dilation)
        for i in range(inputs):
            y[to] = y[to] + a[source][..., i : i + 1] * weights[:, :, tap, i]
    return y.reshape(n.shape)


def inside(shape: tuple[int, ...], row: int, column: int) -> tuple[Any, Any]:
    """Return slices of the tokens with a neighbour at that offset, and the neighbours'."""
    height, width = shape[:2]
    if abs(row) >= height or abs(column) >= width:
        return (slice(0, 0), slice(0, 0)), (slice(0, 0), slice(0, 0))
    to = slice(max(0, -row), height - max(0, row)), slice(max(0, -column), width - max(0, column))
    return to, (slice(max(0, row), height + min(0, row)), slice(max(0, column), width + min(0, column)))


def numbers(op: Op, tiles: npt.NDArray[Any], outputs: int, inputs: int) -> Floats:
    """Weights of a tile as numbers, (inputs, outputs)."""
    if op.option("weights") == "float":
        return untile(tiles, outputs)
    return unpack_signs(untile_weights(tiles, outputs), inputs).T.astype(np.float32)


def binary_conv(bits: npt.NDArray[np.bool_], tiles: Words, groups: int, dilation: int) -> npt.NDArray[np.int32]:
    """3x3 grouped dilated convolution of signs, (H, W, C) truth values -> (H, W, C) exact integers.

    Taps outside the grid add nothing: they are left out of both the count and the differing bits.
    """
    height, width, channels = bits.shape
    inputs = channels // groups
    weights = unpack_signs(untile_weights(tiles, channels), 9 * inputs).reshape(groups, inputs, 9, inputs)
    ones = (bits.astype(np.int32) * 2 - 1).reshape(height, width, groups, inputs)
    acc = np.zeros((height, width, groups, inputs), np.int32)
    for tap in range(9):
        to, source = inside(bits.shape, (tap // 3 - 1) * dilation, (tap % 3 - 1) * dilation)
        acc[to] += np.einsum("hwgi,goi->hwgo", ones[source], weights[:, :, tap])
    return acc.reshape(height, width, channels)


def patches2x2(grid: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, C) -> (H/2 * W/2, 4C), inputs in the order (row, column, channel)."""
    height, width, channels = grid.shape
    return grid.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 1, 3, 4).reshape(-1, 4 * channels)
