"""The package's token mixers: the fields each reads, and its packed op.

Their modules are in `models.mixers`, their ops in `format.ops`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..bits import LANES

Mixer = Literal["conv", "attention", "pooled_attention", "pooling"]

MIXER_GROUPS = 4
"""Groups of each convolution of the mixer "conv" (BHViT, Gao et al., CVPR 2025)."""


class MixerRules(NamedTuple):
    """The requirements of a mixer on its stage."""

    op: str
    """Kind of the op that computes it in a packed program."""
    reads: tuple[str, ...] = ()
    """Fields of a stage that only some mixers read."""
    channels_multiple: int = 32
    """A number that divides the stage's channels; each of `heads`, if it reads that, has a multiple of 32."""


MIXER_RULES: Mapping[Mixer, MixerRules] = {
    "conv": MixerRules(op="mixer", channels_multiple=LANES * MIXER_GROUPS),
    "attention": MixerRules(op="attention", reads=("heads", "window")),
    "pooled_attention": MixerRules(op="pooled_attention", reads=("heads", "key_pool")),
    "pooling": MixerRules(op="pooling"),
}


def readers(field: str) -> tuple[str, ...]:
    """Return the mixers that read a field of the stage which only some read.

    None for fields that all read.
    """
    return tuple(name for name, rules in MIXER_RULES.items() if field in rules.reads)


def reads(mixer: str, field: str) -> bool:
    """Whether a mixer reads a field of its stage; registered mixers may read all."""
    return mixer not in MIXER_RULES or not readers(field) or mixer in readers(field)
