"""Plain pooling as a token mixer (MetaFormer).

n = norm(x, norm_scale, norm_shift); s = (sum of the 3x3 tokens around, those inside the grid in row-major order) / 9;
x += norm(s, out_scale, out_shift).
"""

from __future__ import annotations

import itertools

import numpy as np

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, inside, norm
from ..op import Op
from ..op_cost import NORM, OpCost
from ..schema import NORM_TENSORS, WHOLE_WORDS, OpSchema, floats

SCHEMA = OpSchema(
    ("height", "width", "channels"),
    ("norm",),
    NORM_TENSORS | floats("out_scale out_shift", "channels"),
    rules=(WHOLE_WORDS,),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    n = norm(op, t, "norm", x)
    total = np.zeros_like(n)
    for row, column in itertools.product((-1, 0, 1), repeat=2):
        to, source = inside(n.shape, row, column)
        total[to] = total[to] + n[source]
    return x + norm(op, t, "out", total / np.float32(9))


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    return OpCost(name=name, kind="pooling", float_parameters=2 * NORM * spec.stages[index].channels)
