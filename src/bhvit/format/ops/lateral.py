"""A binary 1x1 unit: channels of a stage become those of the decoder.

n = norm(x, norm_scale, norm_shift); y = linear(n). The residual of O output channels: where C = k*O,
r[o] = (n[o] + n[o + O] + ... in order)*(1/k); where O is a multiple of C, r[o] = n[o mod C].
x = prelu(y + r, slope) + out_shift.
"""

from __future__ import annotations

import math

import numpy as np

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, in_order, linear, norm, prelu
from ..op import Op
from ..op_cost import BIAS_BEFORE_SIGN, NORM, RPRELU, OpCost, quantised
from ..schema import LAYER, NORM_TENSORS, QUANTISED, OpSchema, floats, weights

SCHEMA = OpSchema(
    ("height", "width", "channels", "out_channels"),
    QUANTISED,
    NORM_TENSORS
    | weights("weight", "tiles(out_channels)", "channels")
    | floats("threshold", "channels")
    | floats("scale shift slope out_shift", "out_channels")
    | floats("weight_scale", "out_channels", when=LAYER),
    rules=(
        ("channels % 32 == 0 and out_channels % 32 == 0", "channels must be multiples of 32"),
        (
            "channels % out_channels == 0 or out_channels % channels == 0",
            "out_channels must be a multiple or a divisor of channels",
        ),
    ),
    output=("height", "width", "out_channels"),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    outputs = op.attributes["out_channels"]
    n = norm(op, t, "norm", x).reshape(-1, channels)
    if channels > outputs:
        groups = channels // outputs
        parts = n.reshape(len(n), groups, outputs).transpose(1, 0, 2)
        residual: Floats = in_order(parts) * (np.float32(1) / np.float32(groups))
    else:
        residual = np.tile(n, outputs // channels)
    y = prelu(linear(op, t, n, "{}", what="bits") + residual, t["slope"])
    return (y + t["out_shift"]).reshape(height, width, outputs)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    stage, tokens, outputs = spec.stages[index], math.prod(spec.grid(index)), spec.decoder_channels
    weights = stage.channels * outputs
    floats = (NORM + BIAS_BEFORE_SIGN) * stage.channels + (NORM + RPRELU) * outputs
    return quantised(stage, name, "lateral", weights=weights, floats=floats, macs=tokens * weights)
