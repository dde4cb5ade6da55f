"""The ops of a program: one file each, with its schema, its arithmetic in words and in NumPy, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...bits import Floats
from ...spec.model import ModelSpec
from ..op_cost import OpCost
from ..schema import SCHEMAS, OpSchema
from . import (
    attention,
    downsample,
    downsample_float,
    head,
    lateral,
    mixer,
    mlp,
    pooled_attention,
    pooling,
    segment,
    stem,
    upsample_add,
)


class OpDefinition(NamedTuple):
    """An op: what it takes, what it computes, what it costs."""

    schema: OpSchema
    reference: Callable[..., Floats]
    """The op (`Op`), its tensors (`Tensors`) and the values that it reads, (H, W, C) each, or of a stem the image,
    (in_chans, H, W) -> what it writes, (H, W, C), or of a head the logits, (classes,) or (classes, height, width)."""
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
        "lateral": lateral,
        "upsample_add": upsample_add,
        "segment": segment,
    }.items()
}
SCHEMAS.update((kind, op.schema) for kind, op in OPS.items())
