"""Lower the classifier of pixels: norm and linear layer."""

from __future__ import annotations

from ...models.segmentation import SegmentationHead
from .parts import Tensors, classifier


def lower(head: SegmentationHead) -> Tensors:
    """Return the tensors of an op `segment`: numbers in float64, weights in tiles."""
    return classifier(head.norm, head.linear)
