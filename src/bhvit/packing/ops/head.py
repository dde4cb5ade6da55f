"""Lower the head: norm and classifier."""

from __future__ import annotations

from typing import cast

from torch import nn

from ...models.blocks import Head
from .parts import Tensors, classifier


def lower(head: Head) -> Tensors:
    """Return the tensors of an op `head`: numbers in float64, weights in tiles."""
    return classifier(head.norm, cast("nn.Linear", head.linear))
