"""Lower attention to pooled keys and values."""

from __future__ import annotations

from typing import cast

from ...models.blocks import Block
from ...models.mixers import PooledAttention, ResidualUnit
from ..fold import array, norm
from .attend import attend
from .parts import Tensors, affine, output, unit_tensors


def lower(block: Block) -> Tensors:
    """Return the tensors of an op `pooled_attention`: numbers in float64, weights in tiles."""
    mixer = cast("PooledAttention", block.mixer)
    reduction: Tensors = {}
    if isinstance(mixer.reduction, ResidualUnit):
        unit = unit_tensors(mixer.reduction)
        unit["shift_in"] = unit.pop("shift")  # `reduce_shift` follows the activation
        unit["shift"] = array(mixer.reduction.activation.shift_out)
        reduction = {f"reduce_{name}": tensor for name, tensor in unit.items()}
    return {
        **affine("norm", norm(block.mixer_norm)),
        **reduction,
        **attend(mixer.attention),
        **output(mixer.output),
    }
