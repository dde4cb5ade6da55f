"""The sum of a grid and a coarser one that is upsampled by 2 (nearest).

x[i, j] = x[i, j] + coarse[i div 2, j div 2]; `reads` names x, then coarse.
"""

from __future__ import annotations

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors
from ..op import Op
from ..op_cost import OpCost
from ..schema import WHOLE_WORDS, OpSchema

SCHEMA = OpSchema(
    ("height", "width", "channels"),
    (),
    {},
    rules=(WHOLE_WORDS, ("height % 2 == 0 and width % 2 == 0", "height and width must be even")),
    inputs=(("height", "width", "channels"), ("height // 2", "width // 2", "channels")),
)


def reference(op: Op, t: Tensors, x: Floats, coarse: Floats) -> Floats:
    return x + coarse.repeat(2, axis=0).repeat(2, axis=1)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name`: additions, which the tables leave out."""
    return OpCost(name=name, kind="upsample_add")
