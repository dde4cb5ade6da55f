"""The ops of a program: one file each, with its schema, its arithmetic in words and in NumPy, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...bits import Floats
from ...spec.model import ModelSpec
from ..arithmetic import Tensors
from ..op import Op
from ..op_cost import OpCost
from ..schema import SCHEMAS, OpSchema
from . import attention, downsample, downsample_float, head, mixer, mlp, pooled_attention, pooling, stem


class OpDefinition(NamedTuple):
    """An op: what it takes, what it computes, what it costs."""

    schema: OpSchema
    reference: Callable[[Op, Tensors, Floats], Floats]
    """The op, its tensors and x, (H, W, C), or of a stem the image, (in_chans, H, W) -> x after the op, (H, W, C),
    or of a head the logits, (classes,)."""
    cost: Callable[[ModelSpec, int, str], OpCost]
    """A spec, the op's stage and name -> its cost."""
    arithmetic: str | None
    """The arithmetic in words."""


OPS: Mapping[str, OpDefinition] = {
    kind: OpDefinition(module.SCHEMA, module.reference, module.cost, module.__doc__)
    for kind, module in {
        "stem": stem,
        "mixer": mixer,
        "pooling": pooling,
        "mlp": mlp,
        "attention": attention,
        "pooled_attention": pooled_attention,
        "downsample": downsample,
        "downsample_float": downsample_float,
        "head": head,
    }.items()
}
SCHEMAS.update((kind, op.schema) for kind, op in OPS.items())
