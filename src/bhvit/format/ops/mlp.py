"""The MLP with its shift branches.

n = norm(x, norm_scale, norm_shift). The F hidden channels are stored as (i, c), i < r = F/C, c < C; hidden (i, c) is
channel r*c + i of the published order.
z = prelu(linear1(n) + n[(r*c + i) mod C], slope1);
mean_c = (z_(0,c) + ... + z_(r-1,c)) * (1/r); y = prelu(linear2(z) + mean, slope2);
x = (x + (y*out_scale + out_shift)) + cross, cross = sum over the 9 taps of n shifted
times taps[k], added in the order of TAPS; beyond the grid n is cyclic or 0, by the option `border`.
"""

from __future__ import annotations

import math

import numpy as np

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import TAPS, Tensors, in_order, inside, linear, norm, prelu
from ..op import Op
from ..op_cost import BIAS_BEFORE_SIGN, LAYER_SCALE, NORM, RPRELU, OpCost, quantised
from ..schema import LAYER, NORM_TENSORS, QUANTISED, WHOLE_WORDS, OpSchema, floats, weights

_1 = np.float32(1)
SCHEMA = OpSchema(
    ("height", "width", "channels", "hidden"),
    (*QUANTISED, "border"),
    NORM_TENSORS
    | weights("weight1", "tiles(hidden)", "channels")
    | floats("threshold1", "channels")
    | floats("scale1 shift1 slope1", "hidden")
    | floats("weight_scale1", "hidden", when=LAYER)
    | weights("weight2", "tiles(channels)", "hidden")
    | floats("threshold2", "hidden")
    | floats("scale2 shift2 slope2 out_scale out_shift", "channels")
    | floats("weight_scale2", "channels", when=LAYER)
    | floats("taps", "9", "channels"),
    rules=(
        WHOLE_WORDS,
        (
            "hidden % channels == 0 and channels % (hidden // channels) == 0",
            "hidden must be r*channels with r a divisor of channels",
        ),
    ),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    channels, hidden = x.shape[2], op.attributes["hidden"]
    r = hidden // channels
    n = norm(op, t, "norm", x).reshape(-1, channels)
    stored = np.arange(hidden)  # hidden (i, c) stands at i*C + c
    tiled = n[:, (r * (stored % channels) + stored // channels) % channels]
    z = prelu(linear(op, t, n, "{}1") + tiled, t["slope1"])
    mean = in_order(z.reshape(len(n), r, channels).transpose(1, 0, 2)) * (_1 / np.float32(r))
    y = prelu(linear(op, t, z, "{}2") + mean, t["slope2"])
    crossed = cross(n.reshape(x.shape), t["taps"], op.option("border"))
    return (x + (y * t["out_scale"] + t["out_shift"]).reshape(x.shape)) + crossed


def cross(n: Floats, taps: Floats, border: str) -> Floats:
    parts = []
    for (row, column), tap in zip(TAPS, taps, strict=True):
        if border == "cyclic":
            shifted = np.roll(n, (-row, -column), axis=(0, 1))
        else:
            shifted = np.zeros_like(n)
            to, source = inside(n.shape, row, column)
            shifted[to] = n[source]
        parts.append(shifted * tap)
    return in_order(parts)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    stage = spec.stages[index]
    channels, hidden = stage.channels, stage.hidden
    weights = 2 * channels * hidden
    floats = (NORM + BIAS_BEFORE_SIGN + NORM + RPRELU + LAYER_SCALE) * channels
    floats += (NORM + RPRELU + BIAS_BEFORE_SIGN) * hidden
    # Means along H and along W and, of shift branches, a channel shift for each width.
    floats += len(spec.shifts) * (3 if spec.branches == "shift" else 2) * LAYER_SCALE * channels
    macs = math.prod(spec.grid(index)) * weights
    return quantised(stage, name, "mlp", weights=weights, floats=floats, macs=macs)
