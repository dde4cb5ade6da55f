"""Stem, token mixers without attention, MLP, downsampling, decoder and heads: one function for each op.

Each takes the op and x, (B, H, W, C), and returns x after it; `format.ops` states the arithmetic.
"""

from __future__ import annotations

import numpy as np

from ...format.arithmetic import TAPS, numbers, untile
from ...spec.model import DILATIONS
from .layers import Layers


def stem(op: Layers, image: str) -> str:
    """Add the stem: images (B, C, H, W) to tokens."""
    graph, a = op.graph, op.op.attributes
    kernel, edge = a["kernel"], (a["kernel"] - a["patch"]) // 2
    weight = untile(op.tensor("weight"), a["channels"]).T.reshape(a["channels"], a["in_chans"], kernel, kernel)
    y = graph.add(
        "Conv",
        image,
        graph.constant(weight, "weight"),
        op.stored("bias"),
        kernel_shape=[kernel, kernel],
        strides=[a["patch"]] * 2,
        pads=[edge] * 4,
    )
    y = graph.channels_last(y)
    if op.op.option("norm") == "layer":
        y = op.norm("norm", y)
    if op.op.option("activation") == "gelu":
        erf = graph.add("Erf", graph.add("Mul", y, graph.number(0.70710678)))
        half = graph.add("Mul", graph.number(0.5), graph.add("Add", graph.number(1), erf))
        y = graph.add("Mul", y, half)
    return graph.add("Add", y, op.position(a["height"], a["width"]))


def mixer(op: Layers, x: str) -> str:
    """Add the convolutional mixer: three dilated binary convolutions."""
    graph, channels, groups = op.graph, op.op.attributes["channels"], op.op.attributes["groups"]
    inputs, branches = channels // groups, []
    signs = graph.channels_first(op.activate(op.norm("norm", x), np.zeros(1, np.float32)))
    for branch, dilation in enumerate(DILATIONS):
        # (inputs in the order row, column, channel; outputs) -> (outputs, channels of a group, 3, 3)
        weight = numbers(op.op, op.tensor("weight", branch), channels, 9 * inputs)
        weight = weight.T.reshape(channels, 3, 3, inputs).transpose(0, 3, 1, 2)
        y = graph.add(
            "Conv",
            signs,
            op.weights(np.ascontiguousarray(weight), "weight"),
            kernel_shape=[3, 3],
            group=groups,
            dilations=[dilation] * 2,
            pads=[dilation] * 4,
        )
        y = op.affine(graph.channels_last(y), op.stored("scale", branch), op.stored("shift", branch))
        branches.append(op.prelu(y, op.stored("slope", branch)))
    total = graph.in_order(branches)
    if op.op.option("norm") == "layer":
        total = graph.add("Add", total, op.stored("sum_shift"))
    return graph.add("Add", x, op.norm("out", total))


def pooling(op: Layers, x: str) -> str:
    """Add the pooling mixer."""
    graph = op.graph
    n = graph.channels_first(op.norm("norm", x))
    pooled = graph.add("AveragePool", n, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1], count_include_pad=1)
    return graph.add("Add", x, op.norm("out", graph.channels_last(pooled)))


def mlp(op: Layers, x: str) -> str:
    """Add the binary MLP with its shift branches."""
    graph, a = op.graph, op.op.attributes
    channels, hidden = a["channels"], a["hidden"]
    r = hidden // channels
    n = op.norm("norm", x)
    stored = np.arange(hidden)
    source = graph.integers(*((r * (stored % channels) + stored // channels) % channels).tolist())
    tiled = graph.add("Gather", n, source, axis=3)
    z = op.prelu(graph.add("Add", op.linear(n, "{}1"), tiled), op.stored("slope1"))
    mean = graph.add("Mul", graph.in_order(graph.parts(z, [channels] * r)), graph.number(1 / r))
    y = op.prelu(graph.add("Add", op.linear(z, "{}2"), mean), op.stored("slope2"))
    y = graph.add("Add", x, op.affine(y, op.stored("out_scale"), op.stored("out_shift")))
    return graph.add("Add", y, _cross(op, n))


def _cross(op: Layers, n: str) -> str:
    """Add the shift branches, each a depthwise convolution of five taps.

    One is along H and one along W; the tap in the middle belongs to H's.
    """
    graph, a, taps = op.graph, op.op.attributes, op.tensor("taps")
    grid, sums = graph.channels_first(n), []
    for axis, edge in ((0, a["height"]), (1, a["width"])):
        kernel = np.zeros((a["channels"], 1, 5), np.float32)
        for offsets, tap in zip(TAPS, taps, strict=True):
            if offsets[1 - axis] == 0 and (offsets[axis] or axis == 0):
                kernel[:, 0, 2 + offsets[axis]] = tap
        padded, shape, pads = grid, [5, 1] if axis == 0 else [1, 5], [0] * 4
        if op.op.option("border") == "cyclic":
            around = graph.integers(*(index % edge for index in range(-2, edge + 2)))
            padded = graph.add("Gather", grid, around, axis=2 + axis)
        else:
            pads[axis] = pads[axis + 2] = 2
        weight = graph.constant(kernel.reshape(a["channels"], 1, *shape), "taps")
        sums.append(graph.add("Conv", padded, weight, kernel_shape=shape, group=a["channels"], pads=pads))
    return graph.channels_last(graph.in_order(sums))


def downsample(op: Layers, x: str) -> str:
    """Add the binary downsampling to half the height and width."""
    graph, a = op.graph, op.op.attributes
    channels, outputs = a["channels"], a["out_channels"]
    patches = _patches(op, op.norm("norm", x))
    y = op.linear(patches, "{}", threshold=np.tile(op.tensor("threshold"), 4))
    n00, n01, n10, n11 = graph.parts(patches, [channels] * 4)
    rows = graph.add("Add", graph.add("Add", n00, n01), graph.add("Add", n10, n11))
    pool = graph.add("Mul", rows, graph.number(0.25))
    tiled = graph.add("Concat", *[pool] * (outputs // channels), axis=-1) if outputs > channels else pool
    y = op.prelu(graph.add("Add", y, tiled), op.stored("slope"))
    y = graph.add("Add", y, op.stored("out_shift"))
    return graph.add("Add", y, op.position(a["height"] // 2, a["width"] // 2))


def downsample_float(op: Layers, x: str) -> str:
    """Add the full-precision downsampling to half the height and width."""
    graph, a = op.graph, op.op.attributes
    weight = graph.constant(untile(op.tensor("weight"), a["out_channels"]), "weight")
    if op.op.option("norm") == "layer":
        y = graph.add("MatMul", _patches(op, op.norm("norm", x)), weight)
        y = op.layer_norm(y, op.stored("scale"), op.stored("shift"))
    else:
        y = graph.add("Add", graph.add("MatMul", _patches(op, x), weight), op.stored("bias"))
    return graph.add("Add", y, op.position(a["height"] // 2, a["width"] // 2))


def _patches(op: Layers, grid: str) -> str:
    """Gather patches: (B, H, W, C) to (B, H/2, W/2, 4C).

    Inputs are in the order row, column, channel.
    """
    graph, a = op.graph, op.op.attributes
    height, width, channels = a["height"] // 2, a["width"] // 2, a["channels"]
    split = graph.transpose(graph.reshape(grid, height, 2, width, 2, channels), 0, 1, 3, 2, 4, 5)
    return graph.reshape(split, height, width, 4 * channels)


def head(op: Layers, x: str) -> str:
    """Add the classifier: (B, H, W, C) to logits (B, classes)."""
    graph, layer = op.graph, op.op.option("norm") == "layer"
    mean = graph.add("ReduceMean", op.norm("norm", x) if layer else x, axes=[1, 2], keepdims=0)
    features = mean if layer else op.norm("norm", mean)
    weight = op.classifier(op.op.attributes["classes"])
    return graph.add("Add", graph.add("MatMul", features, weight), op.stored("bias"))


def lateral(op: Layers, x: str) -> str:
    """Add the unit that gives a stage's grid the decoder's channels."""
    graph, a = op.graph, op.op.attributes
    channels, outputs = a["channels"], a["out_channels"]
    n = op.norm("norm", x)
    if channels > outputs:
        groups = channels // outputs
        residual = graph.add("Mul", graph.in_order(graph.parts(n, [outputs] * groups)), graph.number(1 / groups))
    else:
        residual = graph.add("Concat", *[n] * (outputs // channels), axis=-1) if outputs > channels else n
    y = op.prelu(graph.add("Add", op.linear(n, "{}"), residual), op.stored("slope"))
    return graph.add("Add", y, op.stored("out_shift"))


def upsample_add(op: Layers, x: str, coarse: str) -> str:
    """Add a grid of half the size, each token repeated 2x2, to x."""
    graph, a = op.graph, op.op.attributes
    height, width, channels = a["height"] // 2, a["width"] // 2, a["channels"]
    shape = graph.integers(1, height, 2, width, 2, channels)
    repeated = graph.add("Expand", graph.reshape(coarse, height, 1, width, 1, channels), shape)
    return graph.add("Add", x, graph.reshape(repeated, a["height"], a["width"], channels))


def segment(op: Layers, x: str) -> str:
    """Add the head of a segmentation: (B, H, W, C) to logits of pixels.

    They are (B, classes, H * scale, W * scale).
    """
    graph, a = op.graph, op.op.attributes
    weight = op.classifier(a["classes"])
    logits = graph.add("Add", graph.add("MatMul", op.norm("norm", x), weight), op.stored("bias"))
    planes = graph.channels_first(logits)
    for axis, edge in ((2, a["height"]), (3, a["width"])):
        planes = _upsampled(op, planes, edge, axis)
    return planes


def _upsampled(op: Layers, planes: str, edge: int, axis: int) -> str:
    """Bilinear upsampling along one axis, as `format.ops.segment` states it."""
    graph, scale = op.graph, op.op.attributes["scale"]
    position = np.arange(edge * scale)
    p = 2 * (position % scale) + 1 - scale
    first = position // scale - (p < 0)
    weight = (p % (2 * scale)).astype(np.float32) / np.float32(2 * scale)
    a, b = (
        graph.add("Gather", planes, graph.integers(*np.clip(first + step, 0, edge - 1).tolist()), axis=axis)
        for step in (0, 1)
    )
    shape = (-1, 1) if axis == 2 else (-1,)
    scaled = graph.add("Mul", graph.add("Sub", b, a), graph.constant(weight.reshape(shape), "lerp"))
    return graph.add("Add", a, scaled)
