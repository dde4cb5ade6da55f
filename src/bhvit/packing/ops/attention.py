"""Lower window attention."""

from __future__ import annotations

from typing import cast

from ...models.blocks import Block
from ...models.mixers import WindowAttention
from ..fold import array, norm
from .attend import attend
from .parts import Tensors, affine, output


def lower(block: Block) -> Tensors:
    """Return the tensors of an op `attention`: numbers in float64, weights in tiles."""
    mixer = cast("WindowAttention", block.mixer)
    pool_mix, local_mix = array(mixer.pool_mix), array(mixer.local_mix)
    return {
        **affine("norm", norm(block.mixer_norm)),
        "pool_max": pool_mix,
        "pool_avg": 1 - pool_mix,
        **affine("token", norm(mixer.token_norm)),
        **attend(mixer.attention),
        "mix_local": local_mix,
        "mix_global": 1 - local_mix,
        **output(mixer.output),
    }
