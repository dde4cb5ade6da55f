"""Lower the classifier of pixels: norm and linear layer."""

from __future__ import annotations

from ...bits import tile_floats
from ...models.segmentation import SegmentationHead
from ..fold import array, norm
from .parts import Tensors, affine


def lower(head: SegmentationHead) -> Tensors:
    """Return the tensors of an op `segment`: numbers in float64, weights in tiles."""
    return {
        **affine("norm", norm(head.norm)),
        "weight": tile_floats(array(head.linear.weight)),
        "bias": array(head.linear.bias),
    }
