"""Window attention with global tokens, and attention to pooled keys; `format.ops` states the arithmetic."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ...format.ops.attend import GSB_HIGH, GSB_UPPER
from ...spec.model import ATTENTION_LEVELS
from .layers import Layers


def attention(op: Layers, x: str) -> str:
    """(B, H, W, C) -> (B, H, W, C)."""
    graph, a = op.graph, op.op.attributes
    channels, window_h, window_w = a["channels"], a["window_h"], a["window_w"]
    down, across, length = a["height"] // window_h, a["width"] // window_w, window_h * window_w
    windows = down * across
    n = op.norm("norm", x)
    blocks = graph.transpose(graph.reshape(n, down, window_h, across, window_w, channels), 0, 1, 3, 2, 4, 5)
    own = graph.reshape(blocks, windows * length, channels)
    tokens = graph.add("Concat", own, graph.reshape(_global_tokens(op, n), windows, channels), axis=1)
    tokens = op.layer_norm(tokens, op.stored("token_scale"), op.stored("token_shift"))

    def of_windows(rows: str) -> str:
        """Give each window its tokens and all global ones: (B, windows, tokens, C)."""
        local, everywhere = graph.parts(rows, [windows * length, windows], axis=1)
        local = graph.reshape(local, windows, length, channels)
        shape = graph.integers(1, windows, windows, channels)
        everywhere = graph.add("Expand", graph.reshape(everywhere, 1, windows, channels), shape)
        return graph.add("Concat", local, everywhere, axis=2)

    (z_q, q), (z_k, k), (z_v, v) = (_project(op, tokens, part) for part in range(3))
    zs = of_windows(graph.add("Add", graph.add("Add", z_q, z_k), z_v))
    c = _context(op, _attend(op, of_windows(q), of_windows(k), of_windows(v)), zs)
    local, everywhere = graph.parts(c, [length, windows], axis=2)
    pooled = graph.add("ReduceMean", everywhere, axes=[1], keepdims=0)
    spread = graph.add("Mul", graph.reshape(pooled, windows, 1, channels), op.stored("mix_global"))
    mixed = graph.add("Add", graph.add("Mul", local, op.stored("mix_local")), spread)
    y = _output(op, graph.add("Add", mixed, op.stored("mix_shift")))
    y = graph.transpose(graph.reshape(y, down, across, window_h, window_w, channels), 0, 1, 3, 2, 4, 5)
    return graph.add("Add", x, graph.reshape(y, a["height"], a["width"], channels))


def _global_tokens(op: Layers, n: str) -> str:
    """Pool one token a window: (B, down, across, C).

    It is of the patch that starts (window - 1) // 2 before the window.
    """
    graph, a = op.graph, op.op.attributes
    shape = [a["window_h"], a["window_w"]]
    pads = [(shape[0] - 1) // 2, (shape[1] - 1) // 2, 0, 0]
    grid = graph.channels_first(n)
    average = graph.add("AveragePool", grid, kernel_shape=shape, strides=shape, pads=pads, count_include_pad=1)
    largest = graph.add("MaxPool", grid, kernel_shape=shape, strides=shape, pads=pads)
    return graph.add(
        "Add",
        graph.add("Mul", graph.channels_last(largest), op.stored("pool_max")),
        graph.add("Mul", graph.channels_last(average), op.stored("pool_avg")),
    )


def pooled_attention(op: Layers, x: str) -> str:
    """(B, H, W, C) -> (B, H, W, C)."""
    graph, a = op.graph, op.op.attributes
    channels, pool = a["channels"], a["key_pool"]
    height, width, down, across = a["height"], a["width"], a["height"] // pool, a["width"] // pool
    n = op.norm("norm", x)
    u = n
    if pool > 1:
        grid = graph.channels_first(n)
        p = graph.channels_last(graph.add("AveragePool", grid, kernel_shape=[pool] * 2, strides=[pool] * 2))
        y = graph.add("Add", op.linear(p, "reduce_{}", shift="reduce_shift_in"), p)
        u = graph.add("Add", op.prelu(y, op.stored("reduce_slope")), op.stored("reduce_shift"))

    def rows(grid: str) -> str:
        """(B, h, w, C) -> (B, 1, tokens, C)."""
        return graph.reshape(grid, 1, -1, channels)

    def spread(z: str) -> str:
        shape = graph.integers(1, down, pool, across, pool, channels)
        return graph.reshape(
            graph.add("Expand", graph.reshape(z, down, 1, across, 1, channels), shape), 1, -1, channels
        )

    (z_q, q), (z_k, k), (z_v, v) = (_project(op, rows(part), p) for p, part in enumerate((n, u, u)))
    zs = graph.add("Add", graph.add("Add", z_q, spread(z_k)), spread(z_v))
    c = graph.add("Add", _context(op, _attend(op, q, k, v), zs), op.stored("mix_shift"))
    return graph.add("Add", x, graph.reshape(_output(op, c), height, width, channels))


def _project(op: Layers, tokens: str, part: int) -> tuple[str, str]:
    """z and what goes into attention, one of q, k, v."""
    graph = op.graph
    y = op.linear(tokens, "qkv_{}", part, threshold=op.tensor("in_threshold", part))
    z = op.prelu(graph.add("Add", y, tokens), op.stored("qkv_slope", part))
    return z, op.activate(z, op.tensor("qkv_threshold", part))


def _attend(op: Layers, q: str, k: str, v: str) -> str:
    """Queries (B, W, Q, C), keys and values (B, W, K, C) -> the products of all heads, (B, W, Q, C)."""
    graph, a = op.graph, op.op.attributes
    heads, depth = a["heads"], a["channels"] // a["heads"]

    def split(rows: str) -> str:
        """(B, W, T, C) -> (B, W, heads, T, depth)."""
        return graph.transpose(graph.add("Reshape", rows, graph.integers(0, 0, 0, heads, depth)), 0, 1, 3, 2, 4)

    query, values = split(q), split(v)
    scores = graph.add("MatMul", query, graph.transpose(split(k), 0, 1, 2, 4, 3))
    if op.op.option("activations") == "float":
        scaled = graph.add("Mul", scores, graph.number(1 / np.sqrt(np.float32(depth))))
        found = graph.add("MatMul", graph.add("Softmax", scaled, axis=-1), values)
    else:
        found = _levels(op, scores, values)
    joined = graph.transpose(found, 0, 1, 3, 2, 4)
    return graph.add("Reshape", joined, graph.integers(0, 0, 0, a["channels"]))


def _levels(op: Layers, scores: str, values: str) -> str:
    """Sums of signs as scores, and values of signs, (B, W, heads, ., .): the products by quantised probabilities."""
    graph, heads = op.graph, op.op.attributes["heads"]
    best = graph.add("ReduceMax", scores, axes=[-1], keepdims=1)
    behind = graph.add("Mul", graph.add("Sub", best, scores), graph.number(0.5))
    e = graph.add("Gather", op.stored("exp_table"), graph.add("Cast", behind, to=TensorProto.INT64))
    total = graph.add("ReduceSum", e, graph.integers(-1), keepdims=1)
    p = graph.add("Mul", e, graph.add("Div", graph.number(1), total))
    scale, shift = (
        graph.constant(op.tensor(f"level_{name}").reshape(heads, 1, 1), f"level_{name}") for name in ("scale", "shift")
    )
    highest = ATTENTION_LEVELS if op.op.option("quantizer") == "decomposition" else 1
    level = graph.add("Clip", graph.add("Round", op.affine(p, scale, shift)), graph.number(0), graph.number(highest))
    found = graph.add("MatMul", level, values)
    if op.op.option("quantizer") == "gsb":
        for plane, least in enumerate((GSB_UPPER, GSB_HIGH)):
            mask = graph.add("Cast", graph.add("GreaterOrEqual", e, graph.number(least)), to=TensorProto.FLOAT)
            weight = graph.number(op.tensor("plane_scale", plane))
            found = graph.add("Add", found, graph.add("Mul", graph.add("MatMul", mask, values), weight))
    return found


def _context(op: Layers, products: str, zs: str) -> str:
    if op.op.option("norm") == "layer":
        products = op.graph.add("Mul", products, op.stored("ctx_weight_scale"))
    return op.prelu(op.graph.add("Add", op.norm("ctx", products), zs), op.stored("ctx_slope"))


def _output(op: Layers, m: str) -> str:
    y = op.prelu(op.graph.add("Add", op.linear(m, "proj_{}"), m), op.stored("proj_slope"))
    return op.affine(y, op.stored("out_scale"), op.stored("out_shift"))
