"""Lower the pooling mixer: its two norms."""

from __future__ import annotations

from typing import cast

from ...models.blocks import Block
from ...models.mixers import PoolMixer
from ..fold import norm
from .parts import Tensors, affine


def lower(block: Block) -> Tensors:
    """Return the tensors of an op `pooling`: numbers in float64, weights in tiles."""
    mixer = cast("PoolMixer", block.mixer)
    return {**affine("norm", norm(block.mixer_norm)), **affine("out", norm(mixer.norm))}
