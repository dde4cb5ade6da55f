"""The op program in NumPy: readable, slow, and exactly what the native engine computes.

Every function here is one op of `ops`, whose docstring states the arithmetic. All floats are float32
and every operation rounds by itself, so results are equal to the native ones bit for bit.
Shapes: H, W tokens; C channels; grids are (H, W, C).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bits import Floats, Words, binary_dot, pack_bits, popcount, unpack_signs, untile_weights
from ..format import PackedModel
from ..ops import TAPS, TOKEN_EPS, Op
from ..spec import ATTENTION_LEVELS, DILATIONS, LANES

Tensors = Mapping[str, npt.NDArray[Any]]
_1 = np.float32(1)


def run(model: PackedModel, images: Floats) -> Floats:
    """Normalised images (B, in_chans, H, W), float32 -> logits (B, classes), float32."""
    logits = [output for image in images for name, output in trace(model, image) if name == model.ops[-1].name]
    return np.stack(logits) if logits else np.zeros((0, len(model.class_names)), np.float32)


def trace(model: PackedModel, image: Floats) -> Iterator[tuple[str, Floats]]:
    """One image (in_chans, H, W) -> after each op its name and x, (H, W, C); the head gives (classes,)."""
    x = image.astype(np.float32)
    for op in model.ops:
        x = _OPS[op.kind](op, model.op_tensors(op), x)
        yield op.name, x


def _stem(op: Op, t: Tensors, image: Floats) -> Floats:
    a = op.attributes
    height, width, patch, channels = a["height"], a["width"], a["patch"], a["channels"]
    patches = image.reshape(a["in_chans"], height, patch, width, patch).transpose(1, 3, 0, 2, 4)
    y = _float_linear(patches.reshape(height * width, -1), t["weight"], t["bias"])
    y = y * (np.float32(0.5) * (_1 + erf32(y * np.float32(0.70710678))))
    return (y + t["position"]).reshape(height, width, channels)


def _mixer(op: Op, t: Tensors, x: Floats) -> Floats:
    bits = x * t["norm_scale"] + t["norm_shift"] >= 0
    z = []
    for i, dilation in enumerate(DILATIONS):
        acc = binary_conv(bits, t["weight"][i], op.attributes["groups"], dilation).astype(np.float32)
        z.append(_prelu(acc * t["scale"][i] + t["shift"][i], t["slope"][i]))
    return x + (((z[0] + z[1]) + z[2]) * t["out_scale"] + t["out_shift"])


def _mlp(op: Op, t: Tensors, x: Floats) -> Floats:
    channels, hidden = x.shape[2], op.attributes["hidden"]
    r = hidden // channels
    n = (x * t["norm_scale"] + t["norm_shift"]).reshape(-1, channels)
    acc = _binary_linear(n >= t["threshold1"], t["weight1"], hidden)
    stored = np.arange(hidden)  # hidden (i, c) stands at i*C + c
    tiled = n[:, (r * (stored % channels) + stored // channels) % channels]
    z = _prelu((acc * t["scale1"] + t["shift1"]) + tiled, t["slope1"])
    mean = _in_order(z.reshape(len(n), r, channels).transpose(1, 0, 2)) * (_1 / np.float32(r))
    acc = _binary_linear(z >= t["threshold2"], t["weight2"], channels)
    y = _prelu((acc * t["scale2"] + t["shift2"]) + mean, t["slope2"])
    grid = n.reshape(x.shape)
    cross = _in_order(
        [
            np.roll(grid, (-rows, -columns), axis=(0, 1)) * tap
            for (rows, columns), tap in zip(TAPS, t["taps"], strict=True)
        ]
    )
    return (x + (y * t["out_scale"] + t["out_shift"]).reshape(x.shape)) + cross


def _attention(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    heads, window_h, window_w = (op.attributes[key] for key in ("heads", "window_h", "window_w"))
    length, windows = window_h * window_w, height * width // (window_h * window_w)
    depth = channels // heads
    n = x * t["norm_scale"] + t["norm_shift"]

    # Rows: the tokens of each window in turn, then the global tokens.
    def split(grid: Floats) -> Floats:
        blocks = grid.reshape(height // window_h, window_h, width // window_w, window_w, channels)
        return blocks.transpose(0, 2, 1, 3, 4).reshape(windows * length, channels)

    tokens = _token_norm(np.concatenate([split(n), _global_tokens(n, window_h, window_w, t)]), t)

    z, signs = [], []
    for p in range(3):
        acc = _binary_linear(tokens >= t["in_threshold"][p], t["qkv_weight"][p], channels)
        z.append(_prelu((acc * t["qkv_scale"][p] + t["qkv_shift"][p]) + tokens, t["qkv_slope"][p]))
        signs.append(z[p] >= t["qkv_threshold"][p])
    zs = (z[0] + z[1]) + z[2]

    context = np.empty((windows, length + windows, channels), np.float32)
    everywhere = np.arange(windows * length, windows * length + windows)
    for w in range(windows):
        rows = np.concatenate([np.arange(w * length, (w + 1) * length), everywhere])
        products = np.empty((len(rows), channels), np.float32)
        for h in range(heads):
            part = slice(h * depth, (h + 1) * depth)
            q, k, v = (s[rows, part] for s in signs)
            level = attention_levels(q, k, t["exp_table"], t["level_scale"][h], t["level_shift"][h])
            products[:, part] = level @ (v.astype(np.int32) * 2 - 1)
        context[w] = _prelu((products * t["ctx_scale"] + t["ctx_shift"]) + zs[rows], t["ctx_slope"])

    pooled = _in_order(context[:, length:]) / np.float32(windows)
    spread = np.repeat(pooled[:, None], length, axis=1)
    m = ((context[:, :length] * t["mix_local"] + spread * t["mix_global"]) + t["mix_shift"]).reshape(-1, channels)
    acc = _binary_linear(m >= t["proj_threshold"], t["proj_weight"], channels)
    y = _prelu((acc * t["proj_scale"] + t["proj_shift"]) + m, t["proj_slope"])
    y = y * t["out_scale"] + t["out_shift"]
    y = y.reshape(height // window_h, width // window_w, window_h, window_w, channels)
    return x + y.transpose(0, 2, 1, 3, 4).reshape(x.shape)


def _downsample(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    outputs = op.attributes["out_channels"]
    n = x * t["norm_scale"] + t["norm_shift"]
    acc = _binary_linear(_patches2x2(n >= t["threshold"]), t["weight"], outputs)
    n00, n01, n10, n11 = n[0::2, 0::2], n[0::2, 1::2], n[1::2, 0::2], n[1::2, 1::2]
    pool = (((n00 + n01) + (n10 + n11)) * np.float32(0.25)).reshape(-1, channels)
    y = _prelu((acc * t["scale"] + t["shift"]) + np.tile(pool, outputs // channels), t["slope"])
    return ((y + t["out_shift"]) + t["position"]).reshape(height // 2, width // 2, outputs)


def _downsample_float(op: Op, t: Tensors, x: Floats) -> Floats:
    y = _float_linear(_patches2x2(x), t["weight"], t["bias"]) + t["position"]
    return y.reshape(x.shape[0] // 2, x.shape[1] // 2, -1)


def _head(op: Op, t: Tensors, x: Floats) -> Floats:
    tokens = x.reshape(-1, x.shape[-1])
    features = (_in_order(tokens) / np.float32(len(tokens))) * t["norm_scale"] + t["norm_shift"]
    return _float_linear(features[None], t["weight"], t["bias"])[0]


_OPS = {
    "stem": _stem,
    "mixer": _mixer,
    "mlp": _mlp,
    "attention": _attention,
    "downsample": _downsample,
    "downsample_float": _downsample_float,
    "head": _head,
}


def binary_conv(bits: npt.NDArray[np.bool_], tiles: Words, groups: int, dilation: int) -> npt.NDArray[np.int32]:
    """3x3 grouped dilated convolution of signs, (H, W, C) truth values -> (H, W, C) exact integers.

    Taps outside the grid add nothing: they are left out of both the count and the differing bits.
    """
    height, width, channels = bits.shape
    inputs = channels // groups
    weights = unpack_signs(untile_weights(tiles, channels), 9 * inputs).reshape(groups, inputs, 9, inputs)
    signs = (bits.astype(np.int32) * 2 - 1).reshape(height, width, groups, inputs)
    acc = np.zeros((height, width, groups, inputs), np.int32)
    for tap in range(9):
        rows, columns = (tap // 3 - 1) * dilation, (tap % 3 - 1) * dilation
        if abs(rows) >= height or abs(columns) >= width:
            continue
        to_h, to_w = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -columns), width - max(0, columns))
        from_h, from_w = slice(max(0, rows), height + min(0, rows)), slice(max(0, columns), width + min(0, columns))
        acc[to_h, to_w] += np.einsum("hwgi,goi->hwgo", signs[from_h, from_w], weights[:, :, tap])
    return acc.reshape(height, width, channels)


def attention_levels(
    q: npt.NDArray[np.bool_], k: npt.NDArray[np.bool_], exp_table: Floats, scale: np.float32, shift: np.float32
) -> npt.NDArray[np.int32]:
    """Bits of queries (Q, d) and keys (T, d) of one head -> levels 0..3, (Q, T)."""
    words_q, words_k = pack_bits(q), pack_bits(k)
    differing = popcount(words_q[:, None] ^ words_k[None]).sum(axis=-1)
    e = exp_table[differing - differing.min(axis=1, keepdims=True)]
    probabilities = e * (_1 / sum16(e))[:, None]
    return np.clip(np.rint(probabilities * scale + shift), 0, ATTENTION_LEVELS).astype(np.int32)


def _in_order(parts: Iterable[Floats]) -> Floats:
    """The sum of `parts`, added one after the other."""
    return functools.reduce(np.add, parts)


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


def exp32(x: Floats) -> Floats:
    """e^x for x <= 0 in fixed float32 steps (range reduction, polynomial of degree 6)."""
    f = np.float32
    x = np.maximum(x, f(-87))
    n = np.rint(x * f(1.44269504))
    r = (x - n * f(0.693359375)) - n * f(-2.12194440e-4)
    q = f(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        q = q * r + f(c)
    y = (q * (r * r) + r) + _1
    return y * ((n.astype(np.int32) + 127) << 23).view(np.float32)


def erf32(v: Floats) -> Floats:
    """erf in fixed float32 steps: Abramowitz and Stegun 7.1.26, absolute error below 5e-7."""
    f = np.float32
    a = np.abs(v)
    t = _1 / (_1 + a * f(0.3275911))
    p = f(1.061405429)
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + f(c)
    r = _1 - (p * t) * exp32(-(a * a))
    return np.where(v < 0, -r, r)


def _prelu(v: Floats, slope: Floats) -> Floats:
    return np.where(v > 0, v, v * slope)


def _binary_linear(bits: npt.NDArray[np.bool_], tiles: Words, outputs: int) -> Floats:
    """(T, K) truth values -> (T, outputs) exact integers, as float32."""
    return binary_dot(pack_bits(bits), untile_weights(tiles, outputs), bits.shape[1]).astype(np.float32)


def _float_linear(rows: Floats, tiles: Floats, bias: Floats) -> Floats:
    """(T, K) -> (T, O): bias, then the products in the order of the inputs, one by one."""
    weight = tiles.transpose(1, 0, 2).reshape(rows.shape[1], -1)[:, : len(bias)]
    y = np.broadcast_to(bias, (len(rows), len(bias)))
    for k in range(rows.shape[1]):
        y = y + rows[:, k : k + 1] * weight[k]
    return y


def _patches2x2(grid: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, C) -> (H/2 * W/2, 4C), inputs in the order (row, column, channel)."""
    height, width, channels = grid.shape
    return grid.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 1, 3, 4).reshape(-1, 4 * channels)


def _global_tokens(n: Floats, window_h: int, window_w: int, t: Tensors) -> Floats:
    """One token per window: pooled over the patch that starts (window-1)//2 before the window's corner."""
    height, width, channels = n.shape
    tokens = []
    for top in range(0, height, window_h):
        for left in range(0, width, window_w):
            first, first_column = top - (window_h - 1) // 2, left - (window_w - 1) // 2
            patch = n[max(0, first) : first + window_h, max(0, first_column) : first_column + window_w]
            flat = patch.reshape(-1, channels)
            average = _in_order(flat) / np.float32(window_h * window_w)
            tokens.append(flat.max(axis=0) * t["pool_max"] + average * t["pool_avg"])
    return np.stack(tokens)


def _token_norm(tokens: Floats, t: Tensors) -> Floats:
    channels = np.float32(tokens.shape[1])
    mean = sum16(tokens) / channels
    centred = tokens - mean[:, None]
    variance = sum16(centred * centred) / channels
    inverse = _1 / np.sqrt(variance + np.float32(TOKEN_EPS))
    return (centred * inverse[:, None]) * t["token_scale"] + t["token_shift"]
