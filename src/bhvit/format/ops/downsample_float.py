"""Full-precision downsampling, of the † variants.

with norm "batch": x = (bias + sum over k of x[k]*weight[k], in the order k = (row, column, channel)) + position.
With norm "layer": n = norm(x, norm_scale, norm_shift); x = norm(0 + sum over k of n[k]*weight[k], scale, shift) +
position.
"""

from __future__ import annotations

from ...bits import LANES, Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, float_linear, layer_norm, norm, patches2x2, untile
from ..op import Op
from ..op_cost import NORM, OpCost, downsampled
from ..schema import BATCH, DOWNSAMPLING, HALVED, LAYER, OpSchema, floats

SCHEMA = OpSchema(
    ("height", "width", "channels", "out_channels"),
    ("norm",),
    floats("weight", "tiles(out_channels)", "4 * channels", str(LANES))
    | floats("bias", "out_channels", when=BATCH)
    | floats("norm_scale norm_shift", "channels", when=LAYER)
    | floats("scale shift", "out_channels", when=LAYER)
    | floats("position", "height * width // 4", "out_channels"),
    rules=DOWNSAMPLING,
    output=HALVED,
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    outputs = op.attributes["out_channels"]
    weight = untile(t["weight"], outputs)
    if op.option("norm") == "layer":
        y = float_linear(patches2x2(norm(op, t, "norm", x)), weight)
        y = layer_norm(y, t["scale"], t["shift"])
    else:
        y = float_linear(patches2x2(x), weight, t["bias"])
    return (y + t["position"]).reshape(x.shape[0] // 2, x.shape[1] // 2, outputs)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    tokens, channels, outputs = downsampled(spec, index)
    weights = 4 * channels * outputs
    floats = NORM * channels + (NORM + tokens) * outputs  # a norm before and after, position map
    return OpCost(name=name, kind="downsample_float", float_macs=tokens * weights, float_parameters=weights + floats)
