"""Attention of all tokens to keys of a pooled grid (BinaryViT).

n = norm(x, norm_scale, norm_shift). With key_pool > 1: p = (sum of each key_pool x key_pool patch of n, row-major) /
key_pool^2; u = prelu(reduce linear(p) + p, reduce_slope) + reduce_shift. Otherwise u = n.
z_q from n, z_k and z_v from u, as in `attention`; zs = (z_q + z_k[patch]) + z_v[patch]. All tokens attend to
all keys (row-major); m = context(I, zs) + mix_shift;
x += prelu(proj linear(m) + m, proj_slope)*out_scale + out_shift.
"""

from __future__ import annotations

import math

import numpy as np

from ...bits import Floats
from ...spec.limits import MAX_KEYS
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, in_order, linear, norm, prelu
from ..op import Op
from ..op_cost import BIAS_BEFORE_SIGN, NORM, RPRELU, OpCost, quantised
from ..schema import NORM_TENSORS, QUANTISED, OpSchema, floats, weights
from .attend import ATTEND, HEADS, PROJECTIONS, attend, context, learned_floats, output, project

SCHEMA = OpSchema(
    ("height", "width", "channels", "heads", "key_pool"),
    (*QUANTISED, "quantizer"),
    NORM_TENSORS
    | weights("reduce_weight", "tiles(channels)", "channels", when="key_pool>1")
    | floats("reduce_threshold reduce_scale reduce_shift_in reduce_slope reduce_shift", "channels", when="key_pool>1")
    | floats("reduce_weight_scale", "channels", when="key_pool>1 norm=layer")
    | PROJECTIONS
    | ATTEND,
    rules=(
        HEADS,
        ("height % key_pool == 0 and width % key_pool == 0", "key_pool must divide the grid"),
        (f"height * width // (key_pool * key_pool) <= {MAX_KEYS}", f"at most {MAX_KEYS} keys"),
    ),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    pool = op.attributes["key_pool"]
    n = norm(op, t, "norm", x)
    tokens = n.reshape(-1, channels)
    u: Floats = tokens
    if pool > 1:
        patches = n.reshape(height // pool, pool, width // pool, pool, channels).transpose(1, 3, 0, 2, 4)
        p = in_order(patches.reshape(pool * pool, -1, channels)) / np.float32(pool * pool)
        y = linear(op, t, p, "reduce_{}", shift="reduce_shift_in") + p
        u = prelu(y, t["reduce_slope"]) + t["reduce_shift"]

    def spread(z: Floats) -> Floats:
        grid = z.reshape(height // pool, 1, width // pool, 1, channels)
        return np.broadcast_to(grid, (height // pool, pool, width // pool, pool, channels)).reshape(-1, channels)

    (z_q, q), (z_k, k), (z_v, v) = (project(op, t, part, p) for p, part in enumerate((tokens, u, u)))
    attended = context(op, t, attend(op, t, q, k, v), (z_q + spread(z_k)) + spread(z_v))
    return x + output(op, t, attended + t["mix_shift"]).reshape(x.shape)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    stage, tokens = spec.stages[index], math.prod(spec.grid(index))
    square, pooled = stage.channels**2, stage.key_pool > 1
    keys = tokens // stage.key_pool**2
    macs = (2 * tokens + (3 if pooled else 2) * keys) * square + 2 * tokens * keys * stage.channels
    reduction = (BIAS_BEFORE_SIGN + NORM + RPRELU) * stage.channels if pooled else 0
    floats = learned_floats(spec, stage) + reduction
    weights = (5 if pooled else 4) * square
    return quantised(stage, name, "pooled_attention", weights=weights, floats=floats, macs=macs)
