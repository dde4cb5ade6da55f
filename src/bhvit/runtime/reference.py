"""The op program in NumPy: readable, slow, and exactly what the native engine computes.

Every function here is one op of `ops`, whose docstring states the arithmetic. All floats are float32
and every operation rounds by itself, so results are equal to the native ones bit for bit.
Shapes: H, W tokens; C channels; grids are (H, W, C).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bits import Floats, Words, binary_dot, pack_bits, popcount, unpack_signs, untile_weights
from ..format.file import PackedModel
from ..format.program import GSB_HIGH, GSB_UPPER, TAPS, Op
from ..spec.model import ATTENTION_LEVELS, DILATIONS
from .arithmetic import erf32, exp32, float_linear, in_order, layer_norm, prelu, signs, sum16, untile

Tensors = Mapping[str, npt.NDArray[Any]]
_1 = np.float32(1)

Observer = Callable[[str, npt.NDArray[Any], Floats], None]
"""Is told of every decision: what it is for, what was chosen (bits or levels), and how far the value was from
where the choice changes."""


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


_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def observe(model: PackedModel, op: Op, x: Floats, observer: Observer) -> Floats:
    """x after one op, as in `trace`, telling `observer` of the op's decisions in order.

    They are: "bits" of a mixer, (H, W, C), and of a downsampling, (T, 4C); "1" and "2" of an MLP, the latter
    (T, F) as stored; "reduce", "in0" to "in2", "sign0" to "sign2" (q, k, v) and "proj" of attention, (T, C), and
    "levels", (Q, K) for each window and head.
    """
    token = _observer.set(observer)
    try:
        return _OPS[op.kind](op, model.op_tensors(op), x)
    finally:
        _observer.reset(token)


def _decide(what: str, v: Floats, threshold: Floats | float) -> npt.NDArray[np.bool_]:
    bits = v >= threshold
    if observer := _observer.get():
        observer(what, bits, v - np.float32(threshold))
    return bits


def _stem(op: Op, t: Tensors, image: Floats) -> Floats:
    a = op.attributes
    height, width, patch, channels = a["height"], a["width"], a["patch"], a["channels"]
    patches = image.reshape(a["in_chans"], height, patch, width, patch).transpose(1, 3, 0, 2, 4)
    y = float_linear(patches.reshape(height * width, -1), untile(t["weight"], channels), t["bias"])
    if op.option("norm") == "layer":
        y = layer_norm(y, t["norm_scale"], t["norm_shift"])
    if op.option("activation") == "gelu":
        y = y * (np.float32(0.5) * (_1 + erf32(y * np.float32(0.70710678))))
    return (y + t["position"]).reshape(height, width, channels)


def _mixer(op: Op, t: Tensors, x: Floats) -> Floats:
    n = _norm(op, t, "norm", x)
    groups, z = op.attributes["groups"], []
    for i, dilation in enumerate(DILATIONS):
        acc = _conv(op, n, t["weight"][i], groups, dilation)
        z.append(prelu(acc * t["scale"][i] + t["shift"][i], t["slope"][i]))
    s = (z[0] + z[1]) + z[2]
    if op.option("norm") == "layer":
        s = s + t["sum_shift"]
    return x + _norm(op, t, "out", s)


def _pooling(op: Op, t: Tensors, x: Floats) -> Floats:
    n = _norm(op, t, "norm", x)
    total = np.zeros_like(n)
    for row, column in itertools.product((-1, 0, 1), repeat=2):
        to, source = _inside(n.shape, row, column)
        total[to] = total[to] + n[source]
    return x + _norm(op, t, "out", total / np.float32(9))


def _mlp(op: Op, t: Tensors, x: Floats) -> Floats:
    channels, hidden = x.shape[2], op.attributes["hidden"]
    r = hidden // channels
    n = _norm(op, t, "norm", x).reshape(-1, channels)
    stored = np.arange(hidden)  # hidden (i, c) stands at i*C + c
    tiled = n[:, (r * (stored % channels) + stored // channels) % channels]
    z = prelu(_linear(op, t, n, "{}1") + tiled, t["slope1"])
    mean = in_order(z.reshape(len(n), r, channels).transpose(1, 0, 2)) * (_1 / np.float32(r))
    y = prelu(_linear(op, t, z, "{}2") + mean, t["slope2"])
    cross = _cross(n.reshape(x.shape), t["taps"], op.option("border"))
    return (x + (y * t["out_scale"] + t["out_shift"]).reshape(x.shape)) + cross


def _cross(n: Floats, taps: Floats, border: str) -> Floats:
    parts = []
    for (row, column), tap in zip(TAPS, taps, strict=True):
        if border == "cyclic":
            shifted = np.roll(n, (-row, -column), axis=(0, 1))
        else:
            shifted = np.zeros_like(n)
            to, source = _inside(n.shape, row, column)
            shifted[to] = n[source]
        parts.append(shifted * tap)
    return in_order(parts)


def _attention(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    window_h, window_w = op.attributes["window_h"], op.attributes["window_w"]
    length, windows = window_h * window_w, height * width // (window_h * window_w)
    n = _norm(op, t, "norm", x)

    # Rows: the tokens of each window in turn, then the global tokens.
    def split(grid: Floats) -> Floats:
        blocks = grid.reshape(height // window_h, window_h, width // window_w, window_w, channels)
        return blocks.transpose(0, 2, 1, 3, 4).reshape(windows * length, channels)

    tokens = np.concatenate([split(n), _global_tokens(n, window_h, window_w, t)])
    tokens = layer_norm(tokens, t["token_scale"], t["token_shift"])
    (z_q, q), (z_k, k), (z_v, v) = (_project(op, t, tokens, p) for p in range(3))
    zs = (z_q + z_k) + z_v

    everywhere = np.arange(windows * length, windows * length + windows)
    context = np.empty((windows, length + windows, channels), np.float32)
    for w in range(windows):
        rows = np.concatenate([np.arange(w * length, (w + 1) * length), everywhere])
        context[w] = _context(op, t, _attend(op, t, q[rows], k[rows], v[rows]), zs[rows])

    pooled = in_order(context[:, length:]) / np.float32(windows)
    spread = np.repeat(pooled[:, None], length, axis=1)
    m = ((context[:, :length] * t["mix_local"] + spread * t["mix_global"]) + t["mix_shift"]).reshape(-1, channels)
    y = _output(op, t, m).reshape(height // window_h, width // window_w, window_h, window_w, channels)
    return x + y.transpose(0, 2, 1, 3, 4).reshape(x.shape)


def _pooled_attention(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    pool = op.attributes["key_pool"]
    n = _norm(op, t, "norm", x)
    tokens = n.reshape(-1, channels)
    u: Floats = tokens
    if pool > 1:
        patches = n.reshape(height // pool, pool, width // pool, pool, channels).transpose(1, 3, 0, 2, 4)
        p = in_order(patches.reshape(pool * pool, -1, channels)) / np.float32(pool * pool)
        y = _linear(op, t, p, "reduce_{}", shift="reduce_shift_in") + p
        u = prelu(y, t["reduce_slope"]) + t["reduce_shift"]

    def spread(z: Floats) -> Floats:
        grid = z.reshape(height // pool, 1, width // pool, 1, channels)
        return np.broadcast_to(grid, (height // pool, pool, width // pool, pool, channels)).reshape(-1, channels)

    (z_q, q), (z_k, k), (z_v, v) = (_project(op, t, part, p) for p, part in enumerate((tokens, u, u)))
    context = _context(op, t, _attend(op, t, q, k, v), (z_q + spread(z_k)) + spread(z_v))
    return x + _output(op, t, context + t["mix_shift"]).reshape(x.shape)


def _project(op: Op, t: Tensors, tokens: Floats, p: int) -> tuple[Floats, npt.NDArray[Any]]:
    """z and what goes into attention, one of q, k, v: truth values of signs, or numbers."""
    own = {name: tensor[p] for name, tensor in t.items() if name.startswith(("qkv_", "in_threshold"))}
    z = prelu(_linear(op, own, tokens, "qkv_{}", threshold="in_threshold", what=f"in{p}") + tokens, own["qkv_slope"])
    threshold = own["qkv_threshold"]
    return z, z - threshold if op.option("activations") == "float" else _decide(f"sign{p}", z, threshold)


def _attend(op: Op, t: Tensors, q: npt.NDArray[Any], k: npt.NDArray[Any], v: npt.NDArray[Any]) -> Floats:
    """Queries (Q, C), keys and values (K, C) -> I of all heads, (Q, C)."""
    heads = op.attributes["heads"]
    products = np.empty(q.shape, np.float32)
    depth = q.shape[1] // heads
    for h in range(heads):
        part = slice(h * depth, (h + 1) * depth)
        if op.option("activations") == "float":
            products[:, part] = attend_floats(q[:, part], k[:, part], v[:, part])
            continue
        values = v[:, part].astype(np.int32) * 2 - 1
        e = attention_weights(q[:, part], k[:, part], t["exp_table"])
        highest = ATTENTION_LEVELS if op.option("quantizer") == "decomposition" else 1
        levels = attention_levels(e, t["level_scale"][h], t["level_shift"][h], highest) @ values
        products[:, part] = levels
        if op.option("quantizer") == "gsb":
            upper, high = ((e >= np.float32(least)).astype(np.int32) @ values for least in (GSB_UPPER, GSB_HIGH))
            products[:, part] = (
                levels.astype(np.float32) + upper.astype(np.float32) * t["plane_scale"][0]
            ) + high.astype(np.float32) * t["plane_scale"][1]
    return products


def _context(op: Op, t: Tensors, products: Floats, zs: Floats) -> Floats:
    if op.option("norm") == "layer":
        products = products * t["ctx_weight_scale"]
    return prelu(_norm(op, t, "ctx", products) + zs, t["ctx_slope"])


def _output(op: Op, t: Tensors, m: Floats) -> Floats:
    return prelu(_linear(op, t, m, "proj_{}") + m, t["proj_slope"]) * t["out_scale"] + t["out_shift"]


def _downsample(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    outputs = op.attributes["out_channels"]
    n = _norm(op, t, "norm", x)
    y = _linear(op, {**t, "threshold": np.tile(t["threshold"], 4)}, _patches2x2(n), "{}", what="bits")
    n00, n01, n10, n11 = n[0::2, 0::2], n[0::2, 1::2], n[1::2, 0::2], n[1::2, 1::2]
    pool = (((n00 + n01) + (n10 + n11)) * np.float32(0.25)).reshape(-1, channels)
    y = prelu(y + np.tile(pool, outputs // channels), t["slope"])
    return ((y + t["out_shift"]) + t["position"]).reshape(height // 2, width // 2, outputs)


def _downsample_float(op: Op, t: Tensors, x: Floats) -> Floats:
    outputs = op.attributes["out_channels"]
    weight = untile(t["weight"], outputs)
    if op.option("norm") == "layer":
        y = float_linear(_patches2x2(_norm(op, t, "norm", x)), weight)
        y = layer_norm(y, t["scale"], t["shift"])
    else:
        y = float_linear(_patches2x2(x), weight, t["bias"])
    return (y + t["position"]).reshape(x.shape[0] // 2, x.shape[1] // 2, outputs)


def _head(op: Op, t: Tensors, x: Floats) -> Floats:
    tokens, count = x.reshape(-1, x.shape[-1]), np.float32(x.shape[0] * x.shape[1])
    if op.option("norm") == "layer":
        features = in_order(_norm(op, t, "norm", tokens)) / count
    else:
        features = _norm(op, t, "norm", in_order(tokens) / count)
    return float_linear(features[None], untile(t["weight"], len(t["bias"])), t["bias"])[0]


_OPS = {
    "stem": _stem,
    "mixer": _mixer,
    "pooling": _pooling,
    "mlp": _mlp,
    "attention": _attention,
    "pooled_attention": _pooled_attention,
    "downsample": _downsample,
    "downsample_float": _downsample_float,
    "head": _head,
}


def _norm(op: Op, t: Tensors, name: str, v: Floats) -> Floats:
    scale, shift = t[f"{name}_scale"], t[f"{name}_shift"]
    return layer_norm(v, scale, shift) if op.option("norm") == "layer" else v * scale + shift


def _linear(op: Op, t: Tensors, v: Floats, names: str, threshold: str = "", shift: str = "", what: str = "") -> Floats:
    """`linear` of `ops`: v (T, K) -> (T, O). `names` makes the names of the layer's tensors."""
    scale, tiles = t[names.format("scale")], t[names.format("weight")]
    what = what or names.format("").strip("_")
    y = _product(op, v, tiles, t[threshold or names.format("threshold")], len(scale), what)
    offset = t[shift or names.format("shift")]
    if op.option("norm") == "layer":
        return layer_norm(y * t[names.format("weight_scale")], scale, offset)
    return y * scale + offset


def _product(op: Op, v: Floats, tiles: npt.NDArray[Any], threshold: Floats, outputs: int, what: str) -> Floats:
    """`product` of `ops`: v (T, K) -> (T, outputs). `what` names the decision."""
    if op.option("activations") == "float":
        a = v - threshold
    else:
        bits = _decide(what, v, threshold)
        if op.option("weights") == "binary":
            return binary_dot(pack_bits(bits), untile_weights(tiles, outputs), v.shape[1]).astype(np.float32)
        a = signs(bits)
    return float_linear(a, _numbers(op, tiles, outputs, v.shape[1]))


def _conv(op: Op, n: Floats, tiles: npt.NDArray[Any], groups: int, dilation: int) -> Floats:
    """`product` of a grouped dilated 3x3 convolution with threshold 0: n (H, W, C) -> (H, W, C)."""
    if op.option("activations") == op.option("weights") == "binary":
        return binary_conv(_decide("bits", n, 0), tiles, groups, dilation).astype(np.float32)
    a = n if op.option("activations") == "float" else signs(_decide("bits", n, 0))
    height, width, channels = n.shape
    inputs = channels // groups
    weights = _numbers(op, tiles, channels, 9 * inputs).T.reshape(groups, inputs, 9, inputs)
    y = np.zeros((height, width, groups, inputs), np.float32)
    a = a.reshape(height, width, groups, inputs)
    for tap in range(9):
        to, source = _inside(n.shape, (tap // 3 - 1) * dilation, (tap % 3 - 1) * dilation)
        for i in range(inputs):
            y[to] = y[to] + a[source][..., i : i + 1] * weights[:, :, tap, i]
    return y.reshape(n.shape)


def _inside(shape: tuple[int, ...], row: int, column: int) -> tuple[Any, Any]:
    """The tokens of a grid whose neighbour at that offset lies inside it, and those neighbours."""
    height, width = shape[:2]
    if abs(row) >= height or abs(column) >= width:
        return (slice(0, 0), slice(0, 0)), (slice(0, 0), slice(0, 0))
    to = slice(max(0, -row), height - max(0, row)), slice(max(0, -column), width - max(0, column))
    return to, (slice(max(0, row), height + min(0, row)), slice(max(0, column), width + min(0, column)))


def _numbers(op: Op, tiles: npt.NDArray[Any], outputs: int, inputs: int) -> Floats:
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
    signs = (bits.astype(np.int32) * 2 - 1).reshape(height, width, groups, inputs)
    acc = np.zeros((height, width, groups, inputs), np.int32)
    for tap in range(9):
        to, source = _inside(bits.shape, (tap // 3 - 1) * dilation, (tap % 3 - 1) * dilation)
        acc[to] += np.einsum("hwgi,goi->hwgo", signs[source], weights[:, :, tap])
    return acc.reshape(height, width, channels)


def attention_weights(q: npt.NDArray[np.bool_], k: npt.NDArray[np.bool_], exp_table: Floats) -> Floats:
    """Bits of queries (Q, d) and keys (K, d) of one head -> e^(score - best score), (Q, K)."""
    words_q, words_k = pack_bits(q), pack_bits(k)
    differing = popcount(words_q[:, None] ^ words_k[None]).sum(axis=-1)
    return exp_table[differing - differing.min(axis=1, keepdims=True)]


def attention_levels(e: Floats, scale: np.float32, shift: np.float32, highest: int) -> npt.NDArray[np.int32]:
    """Unnormalised probabilities (Q, K) of one head -> levels 0..highest."""
    values = (e * (_1 / sum16(e))[:, None]) * scale + shift
    levels = np.clip(np.rint(values), 0, highest).astype(np.int32)
    if observer := _observer.get():
        boundaries = np.clip(np.floor(values), 0, highest - 1) + np.float32(0.5)
        observer("levels", levels, values - boundaries)
    return levels


def attend_floats(q: Floats, k: Floats, v: Floats) -> Floats:
    """Attention of one head in full precision: (Q, d), (K, d), (K, d) -> (Q, d)."""
    scores = float_linear(q, np.ascontiguousarray(k.T)) * (_1 / np.sqrt(np.float32(q.shape[1])))
    e = exp32(scores - scores.max(axis=1, keepdims=True))
    return float_linear(e * (_1 / sum16(e))[:, None], v)


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
            average = in_order(flat) / np.float32(window_h * window_w)
            tokens.append(flat.max(axis=0) * t["pool_max"] + average * t["pool_avg"])
    return np.stack(tokens)
