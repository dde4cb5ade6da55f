"""Registering mixers, quantisers and activations of your own, without editing the package.

A registered name is a value of the spec like those of the package: in a process that registered it, `create_model`,
recipes, `--set` and checkpoints take it. The model packs if the module's class has a lowering
(`bhvit.packing.register_lowering`).
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ..spec.mixers import MIXER_RULES
from ..spec.model import (
    Activation,
    ActivationQuantizer,
    AttentionQuantizer,
    ModelSpec,
    WeightQuantizer,
)
from ..spec.registry import (
    ACTIVATION_QUANTIZERS,
    ACTIVATIONS,
    ATTENTION_QUANTIZERS,
    MIXERS,
    WEIGHT_QUANTIZERS,
)

MixerMaker = TypeVar("MixerMaker", bound=Callable[[ModelSpec, int], nn.Module])
Maker = TypeVar("Maker", bound=Callable[[int], nn.Module])


def register_mixer(name: str) -> Callable[[MixerMaker], MixerMaker]:
    """Decorator that registers a maker of token mixers, (spec, stage) -> module.

    It decorates a function, or a class whose `__init__` takes these.
    The mixer maps normalised tokens (B, H, W, C) to the same shape; the block adds the residual.
    Raises UserError if the name is the package's own or no identifier.
    """
    return MIXERS.register(name, tuple(MIXER_RULES))


def register_attention_quantizer(name: str) -> Callable[[Maker], Maker]:
    """Decorator that registers a maker of attention quantisers, heads -> module.

    It maps probabilities (..., heads, T, keys) to the same shape. Raises UserError as `register_mixer` does.
    """
    return ATTENTION_QUANTIZERS.register(name, typing.get_args(AttentionQuantizer))


def register_activation(name: str) -> Callable[[Maker], Maker]:
    """Decorator that registers a maker of activations after binary layers, channels -> module.

    It maps tokens (..., C) to the same shape. Raises UserError as `register_mixer` does.
    """
    return ACTIVATIONS.register(name, typing.get_args(Activation))


def register_weight_quantizer(name: str) -> Callable[[Maker], Maker]:
    """Decorator that registers a maker of weight quantisers, output channels -> module.

    It maps latent weights, (O, K) or (O, I, h, w), to the same shape. A model packs, without a lowering, if in
    evaluation mode all weights of an output channel are one number or minus that number.
    Raises UserError as `register_mixer` does.
    """
    return WEIGHT_QUANTIZERS.register(name, typing.get_args(WeightQuantizer))


def register_activation_quantizer(name: str) -> Callable[[Maker], Maker]:
    """Decorator that registers a maker of activation quantisers, channels -> module.

    It maps tokens (..., C) to the same shape; each layer, and each of query, key and value, has its own. A model packs
    if the quantiser has a lowering to `bhvit.models.quantizers.Sign`. Raises UserError as `register_mixer` does.
    """
    return ACTIVATION_QUANTIZERS.register(name, typing.get_args(ActivationQuantizer))
