"""Layers with binary weights, and their latent weights."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .layers import QuantConv2d, QuantLinear
from .quantizers import centre, weight_scale


def binary_layers(model: nn.Module) -> Iterator[tuple[str, QuantConv2d | QuantLinear]]:
    """Yield the layers whose weights are one bit, with their names, in order."""
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear) and has_binary_weights(module):
            yield name, module


def has_binary_weights(layer: QuantConv2d | QuantLinear) -> bool:
    """Whether the weights of a layer are one bit."""
    return layer.quant.weight_bits == 1


def latent_weight(layer: QuantConv2d | QuantLinear) -> Tensor:
    """Return a binary layer's latent weights (O, ...), centred if the layer centres them.

    Linear layers always centre their latent weights, convolutions where the spec has `centre_conv_weights`. A layer
    with a quantiser of its own takes the signs of what that gives.
    """
    if layer.weight_quantizer is not None:
        return evaluated(layer.weight_quantizer, layer.weight)
    if layer.quant.packed:
        return layer.weight
    centred = isinstance(layer, QuantLinear) or layer.quant.centre_convs
    return centre(layer.weight) if centred else layer.weight


def channel_scale(layer: QuantConv2d | QuantLinear) -> Tensor:
    """Return the scale of each output channel of a binary layer, (O, 1, ...), detached."""
    if layer.quant.packed:  # one magnitude a channel, whose mean would be rounded
        return layer.weight.detach().abs().flatten(1).amax(dim=1).view(-1, *[1] * (layer.weight.ndim - 1))
    return weight_scale(layer.weight)


def evaluated(quantizer: nn.Module, weight: Tensor) -> Tensor:
    """Return a quantiser's weights in evaluation mode, and restore its mode."""
    training = quantizer.training
    try:
        quantized: Tensor = quantizer.eval()(weight)
    finally:
        quantizer.train(training)
    return quantized
