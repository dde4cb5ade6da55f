"""The stem: patches of the image become tokens.

y = b + sum over k of in[k]*weight[k], added in the order k = (channel, row, column) of kernel x kernel pixels, which
begin (kernel - patch)/2 above and to the left of the token's patch; pixels outside the image are left out. With norm
"layer" y = norm(y, norm_scale, norm_shift). x = act(y) + position. The activation "gelu":
y * (0.5 * (1 + erf(y * 0.70710678))); "none": y.
"""

from __future__ import annotations

import itertools

import numpy as np

from ...bits import LANES, Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, erf32, inside, layer_norm, untile
from ..op import Op
from ..op_cost import BIAS, NORM, OpCost
from ..schema import LAYER, WHOLE_WORDS, Dims, OpSchema, floats

_1 = np.float32(1)
SCHEMA = OpSchema(
    ("height", "width", "in_chans", "patch", "kernel", "channels"),
    ("norm", "activation"),
    floats("weight", "tiles(channels)", "in_chans * kernel * kernel", str(LANES))
    | floats("bias", "channels")
    | floats("norm_scale norm_shift", "channels", when=LAYER)
    | floats("position", "height * width", "channels"),
    rules=(
        WHOLE_WORDS,
        ("patch <= kernel and (kernel + patch) % 2 == 0", "kernel must be patch plus an even number"),
    ),
    defaults={"kernel": "patch"},
    inputs=(),
)


def reference(op: Op, t: Tensors, image: Floats) -> Floats:
    a = op.attributes
    height, width, channels = a["height"], a["width"], a["channels"]
    y = _convolution(a, image, untile(t["weight"], channels), t["bias"])
    if op.option("norm") == "layer":
        y = layer_norm(y, t["norm_scale"], t["norm_shift"])
    if op.option("activation") == "gelu":
        y = y * (np.float32(0.5) * (_1 + erf32(y * np.float32(0.70710678))))
    return (y + t["position"]).reshape(height, width, channels)


def _convolution(a: Dims, image: Floats, weight: Floats, bias: Floats) -> Floats:
    """Image (in_chans, H, W) and weight (in_chans*kernel*kernel, channels) -> tokens (height*width, channels)."""
    height, width, patch, kernel = a["height"], a["width"], a["patch"], a["kernel"]
    pixels = image.reshape(a["in_chans"], height, patch, width, patch)
    y = np.tile(bias, (height, width, 1))
    taps = itertools.product(range(a["in_chans"]), range(kernel), range(kernel))
    for (channel, i, j), w in zip(taps, weight, strict=True):
        # A pixel outside the token's patch is one of a patch so many rows and columns of tokens away.
        row, column = i - (kernel - patch) // 2, j - (kernel - patch) // 2
        to, source = inside(y.shape, row // patch, column // patch)
        y[to] += pixels[channel, :, row % patch, :, column % patch][source][:, :, None] * w
    return y.reshape(-1, len(bias))


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    weights = spec.in_chans * spec.kernel**2 * channels
    return OpCost(
        name=name,
        kind="stem",
        float_macs=height * width * weights,
        # convolution and its bias, norm, position map
        float_parameters=weights + (BIAS + NORM + height * width) * channels,
    )
