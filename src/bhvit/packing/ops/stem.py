"""Lower the stem: convolution, norm and position map."""

from __future__ import annotations

import numpy as np
from torch import nn

from ...bits import tile_floats
from ...models.blocks import Stem
from ..fold import array, norm
from .parts import Tensors, affine, rows


def lower(stem: Stem) -> Tensors:
    """Return the tensors of an op `stem`: numbers in float64, weights in tiles."""
    weight = array(stem.conv.weight).reshape(stem.conv.out_channels, -1)
    bias = array(stem.conv.bias) if stem.conv.bias is not None else np.zeros(len(weight))
    folded = norm(stem.norm)
    position = {"position": rows(array(stem.position))}
    if isinstance(stem.norm, nn.LayerNorm):
        return {"weight": tile_floats(weight), "bias": bias, **affine("norm", folded), **position}
    return {
        "weight": tile_floats(weight * folded.scale[:, None]),
        "bias": bias * folded.scale + folded.shift,
        **position,
    }
