"""The head: mean of the tokens, then the classifier.

norm "batch": f = norm(sum over tokens of x, in order / (H*W), norm_scale, norm_shift). "layer":
f = sum over tokens of norm(x, norm_scale, norm_shift), in order / (H*W).
logits = bias + sum over c of f[c]*weight[c], in order.
"""

from __future__ import annotations

import numpy as np

from ...bits import LANES, Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, float_linear, in_order, norm, untile
from ..op import Op
from ..op_cost import BIAS, NORM, OpCost
from ..schema import NORM_TENSORS, OpSchema, floats

SCHEMA = OpSchema(
    ("height", "width", "channels", "classes"),
    ("norm",),
    NORM_TENSORS | floats("weight", "tiles(classes)", "channels", str(LANES)) | floats("bias", "classes"),
    output=("1", "1", "classes"),
)


def pooled(op: Op, t: Tensors, x: Floats) -> Floats:
    """f of the arithmetic above: tokens (H, W, C) -> features (C,)."""
    tokens, count = x.reshape(-1, x.shape[-1]), np.float32(x.shape[0] * x.shape[1])
    if op.option("norm") == "layer":
        return in_order(norm(op, t, "norm", tokens)) / count
    return norm(op, t, "norm", in_order(tokens) / count)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    features = pooled(op, t, x)
    return float_linear(features[None], untile(t["weight"], len(t["bias"])), t["bias"])[0]


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    channels = spec.stages[-1].channels
    return OpCost(
        name=name,
        kind="head",
        float_macs=channels * spec.num_classes,
        float_parameters=(channels + BIAS) * spec.num_classes + NORM * channels,
    )
