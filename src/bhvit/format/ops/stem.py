"""The stem: patches of the image become tokens.

y = b + sum over k of in[k]*weight[k], added in the order k = (channel, row, column); with norm
"layer" y = norm(y, norm_scale, norm_shift). x = act(y) + position. The activation "gelu":
y * (0.5 * (1 + erf(y * 0.70710678))); "none": y.
"""

from __future__ import annotations

import numpy as np

from ...bits import LANES, Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, erf32, float_linear, layer_norm, untile
from ..op import Op
from ..op_cost import BIAS, NORM, OpCost
from ..schema import LAYER, WHOLE_WORDS, OpSchema, floats

_1 = np.float32(1)
SCHEMA = OpSchema(
    ("height", "width", "in_chans", "patch", "channels"),
    ("norm", "activation"),
    floats("weight", "tiles(channels)", "in_chans * patch * patch", str(LANES))
    | floats("bias", "channels")
    | floats("norm_scale norm_shift", "channels", when=LAYER)
    | floats("position", "height * width", "channels"),
    rules=(WHOLE_WORDS,),
)


def reference(op: Op, t: Tensors, image: Floats) -> Floats:
    a = op.attributes
    height, width, patch, channels = a["height"], a["width"], a["patch"], a["channels"]
    patches = image.reshape(a["in_chans"], height, patch, width, patch).transpose(1, 3, 0, 2, 4)
    y = float_linear(patches.reshape(height * width, -1), untile(t["weight"], channels), t["bias"])
    if op.option("norm") == "layer":
        y = layer_norm(y, t["norm_scale"], t["norm_shift"])
    if op.option("activation") == "gelu":
        y = y * (np.float32(0.5) * (_1 + erf32(y * np.float32(0.70710678))))
    return (y + t["position"]).reshape(height, width, channels)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    weights = spec.in_chans * spec.patch**2 * channels
    return OpCost(
        name=name,
        kind="stem",
        float_macs=height * width * weights,
        # convolution and its bias, norm, position map
        float_parameters=weights + (BIAS + NORM + height * width) * channels,
    )
