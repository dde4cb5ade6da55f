"""Binary downsampling: 2x2 patches with stride 2.

n = norm(x, norm_scale, norm_shift); y = linear(2x2 stride-2 patches of n), inputs of a weight ordered (row, column,
channel), threshold by channel;
pool = ((n00 + n01) + (n10 + n11))*0.25;
x = (prelu(y + pool[o mod C], slope) + out_shift) + position.
"""

from __future__ import annotations

import numpy as np

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, linear, norm, patches2x2, prelu
from ..op import Op
from ..op_cost import BIAS_BEFORE_SIGN, NORM, RPRELU, OpCost, downsampled, quantised
from ..schema import DOWNSAMPLING, HALVED, LAYER, NORM_TENSORS, QUANTISED, OpSchema, floats, weights

SCHEMA = OpSchema(
    ("height", "width", "channels", "out_channels"),
    QUANTISED,
    NORM_TENSORS
    | weights("weight", "tiles(out_channels)", "4 * channels")
    | floats("threshold", "channels")
    | floats("scale shift slope out_shift", "out_channels")
    | floats("weight_scale", "out_channels", when=LAYER)
    | floats("position", "height * width // 4", "out_channels"),
    rules=DOWNSAMPLING,
    output=HALVED,
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    outputs = op.attributes["out_channels"]
    n = norm(op, t, "norm", x)
    y = linear(op, {**t, "threshold": np.tile(t["threshold"], 4)}, patches2x2(n), "{}", what="bits")
    n00, n01, n10, n11 = n[0::2, 0::2], n[0::2, 1::2], n[1::2, 0::2], n[1::2, 1::2]
    pool = (((n00 + n01) + (n10 + n11)) * np.float32(0.25)).reshape(-1, channels)
    y = prelu(y + np.tile(pool, outputs // channels), t["slope"])
    return ((y + t["out_shift"]) + t["position"]).reshape(height // 2, width // 2, outputs)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    tokens, channels, outputs = downsampled(spec, index)
    weights = 4 * channels * outputs
    # A norm before and after, position map, learnable bias and activation.
    floats = (NORM + BIAS_BEFORE_SIGN) * channels + (NORM + tokens + RPRELU) * outputs
    return quantised(spec.stages[index], name, "downsample", weights=weights, floats=floats, macs=tokens * weights)
