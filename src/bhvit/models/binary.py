"""Which layers of a model have binary weights, and the latent weights whose signs they are."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .layers import QuantConv2d, QuantLinear
from .quantizers import centre


def binary_layers(model: nn.Module) -> Iterator[tuple[str, QuantConv2d | QuantLinear]]:
    """Yield the layers whose weights are one bit, with their names, in order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear) and has_binary_weights(module):
            yield name, module


def has_binary_weights(layer: QuantConv2d | QuantLinear) -> bool:
    """Whether the weights of a layer are one bit."""
    return layer.quant.weight_bits == 1


def latent_weight(layer: QuantConv2d | QuantLinear) -> Tensor:
    """Return the weights (O, ...) whose signs a binary layer takes: less the mean of each output channel.

    Linear layers always centre their latent weights, convolutions where the spec has `centre_conv_weights`.
    """
    centred = isinstance(layer, QuantLinear) or layer.quant.centre_convs
    return centre(layer.weight) if centred else layer.weight
