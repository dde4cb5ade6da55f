"""The token mixer of BHViT: three grouped dilated 3x3 convolutions.

n = norm(x, norm_scale, norm_shift). For each dilation i: a 3x3 convolution in `groups` groups, inputs
of a weight ordered (row, column, channel of the group); z_i = prelu(product_i(n, 0)*scale_i +
shift_i, slope_i); s = (z_0 + z_1) + z_2, with norm "layer" s = s + sum_shift;
x += norm(s, out_scale, out_shift).
"""

from __future__ import annotations

import math

from ...bits import Floats
from ...spec.mixers import MIXER_GROUPS
from ...spec.model import DILATIONS, ModelSpec
from ..arithmetic import Tensors, conv, norm, prelu
from ..op import Op
from ..op_cost import BIAS, BIAS_BEFORE_SIGN, NORM, RPRELU, OpCost, quantised
from ..schema import LAYER, NORM_TENSORS, QUANTISED, OpSchema, floats, weights

SCHEMA = OpSchema(
    ("height", "width", "channels", "groups"),
    QUANTISED,
    NORM_TENSORS
    | weights("weight", "3", "tiles(channels)", "9 * channels // groups")
    | floats("scale shift slope", "3", "channels")
    | floats("sum_shift", "channels", when=LAYER)
    | floats("out_scale out_shift", "channels"),
    rules=(("channels % (16 * groups) == 0", "channels must be a multiple of 16 per group"),),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    n = norm(op, t, "norm", x)
    groups, z = op.attributes["groups"], []
    for i, dilation in enumerate(DILATIONS):
        acc = conv(op, n, t["weight"][i], groups, dilation)
        z.append(prelu(acc * t["scale"][i] + t["shift"][i], t["slope"][i]))
    s = (z[0] + z[1]) + z[2]
    if op.option("norm") == "layer":
        s = s + t["sum_shift"]
    return x + norm(op, t, "out", s)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    stage, branches = spec.stages[index], len(DILATIONS)
    channels, tokens = stage.channels, math.prod(spec.grid(index))
    weights = branches * channels * 9 * (channels // MIXER_GROUPS)
    floats = (NORM + BIAS_BEFORE_SIGN + branches * (BIAS + RPRELU) + NORM) * channels
    return quantised(stage, name, "mixer", weights=weights, floats=floats, macs=tokens * weights)
