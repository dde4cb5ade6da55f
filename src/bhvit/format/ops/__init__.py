"""The ops of a program, one file each: schema, arithmetic and cost."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...bits import Floats
from ...spec.model import ModelSpec
from ..op_cost import OpCost
from ..schema import SCHEMAS, OpSchema


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


KINDS = (
    "stem",
    "mixer",
    "pooling",
    "mlp",
    "attention",
    "pooled_attention",
    "downsample",
    "downsample_float",
    "head",
    "lateral",
    "upsample_add",
    "segment",
)
"""Every kind of op; each has a file of its name here and in `packing.ops`."""


def _definition(kind: str) -> OpDefinition:
    module = importlib.import_module(f"{__name__}.{kind}")
    return OpDefinition(module.SCHEMA, module.reference, module.cost, module.__doc__)


OPS: Mapping[str, OpDefinition] = {kind: _definition(kind) for kind in KINDS}
SCHEMAS.update((kind, op.schema) for kind, op in OPS.items())
