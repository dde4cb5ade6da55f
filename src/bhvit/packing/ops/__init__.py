"""Lowering: each op of a packed program from its module, one file an op."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...format.op import Op
from ...models import BHViT
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
from .parts import Tensors

OPS: Mapping[str, Callable[[Any], Tensors]] = {
    "stem": stem.lower,
    "mixer": mixer.lower,
    "pooling": pooling.lower,
    "mlp": mlp.lower,
    "attention": attention.lower,
    "pooled_attention": pooled_attention.lower,
    "downsample": downsample.lower,
    "downsample_float": downsample_float.lower,
    "head": head.lower,
    "lateral": lateral.lower,
    "upsample_add": upsample_add.lower,
    "segment": segment.lower,
}
"""By kind of op, what makes its tensors from its module: of a mixer and an MLP from the block that holds it."""


def lower(model: BHViT, ops: Iterable[Op]) -> dict[str, Tensors]:
    """Return the tensors of each op of `program(model.spec)` by op name.

    `model` must be as `structure.check_structure` wants it.
    """
    return {op.name: OPS[op.kind](model.get_submodule(_holder(op.name))) for op in ops}


def _holder(name: str) -> str:
    return name.rpartition(".")[0] if name.startswith(("stages.", "head.blocks.")) else name
