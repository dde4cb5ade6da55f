"""Lower the head: norm and classifier."""

from __future__ import annotations

from typing import cast

from torch import nn

from ...bits import tile_floats
from ...models.blocks import Head
from ..fold import array, norm
from .parts import Tensors, affine


def lower(head: Head) -> Tensors:
    """Return the tensors of an op `head`: numbers in float64, weights in tiles."""
    linear = cast("nn.Linear", head.linear)
    return {
        **affine("norm", norm(head.norm)),
        "weight": tile_floats(array(linear.weight)),
        "bias": array(linear.bias),
    }
