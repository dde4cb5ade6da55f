"""Lowering: each op of a packed program from its module, one file an op."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...format.op import Op
from ...format.ops import KINDS
from ...models import BHViT
from .parts import Tensors

OPS: Mapping[str, Callable[[Any], Tensors]] = {
    kind: importlib.import_module(f"{__name__}.{kind}").lower for kind in KINDS
}
"""By kind of op, what makes its tensors from its module: of a mixer and an MLP from the block that holds it."""


def lower(model: BHViT, ops: Iterable[Op]) -> dict[str, Tensors]:
    """Return the tensors of each op of `program(model.spec)` by op name.

    `model` must be as `structure.check_structure` wants it.
    """
    return {op.name: OPS[op.kind](model.get_submodule(_holder(op.name))) for op in ops}


def _holder(name: str) -> str:
    return name.rpartition(".")[0] if name.startswith(("stages.", "head.blocks.")) else name
