"""Lower the full-precision downsampling."""

from __future__ import annotations

from torch import nn

from ...bits import tile_floats
from ...models.blocks import FloatDownsample
from ..fold import array, norm
from .parts import Tensors, affine, rows


def lower(module: FloatDownsample) -> Tensors:
    """Return the tensors of an op `downsample_float`: numbers in float64, weights in tiles."""
    before, after = norm(module.norm_in), norm(module.norm)
    weight = array(module.conv.weight).transpose(0, 2, 3, 1)  # (O, 2, 2, C)
    position = {"position": rows(array(module.position))}
    if isinstance(module.norm, nn.LayerNorm):
        tiles = tile_floats(weight.reshape(len(weight), -1))
        return {"weight": tiles, **affine("norm", before), "scale": after.scale, "shift": after.shift, **position}
    flat = (weight * before.scale).reshape(len(weight), -1)
    return {
        "weight": tile_floats(flat * after.scale[:, None]),
        "bias": (weight * before.shift).sum(axis=(1, 2, 3)) * after.scale + after.shift,
        **position,
    }
