"""Quantisers of weights and activations: real numbers become bits forward, gradients get past them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..format.float_storage import LARGEST_INT8
from ..spec.registry import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from .quant_config import QuantConfig

RECU_QUANTILE = 0.92
"""tau of ReCU (Xu et al., ICCV 2021): the quantile of a Laplace distribution at which the window ends."""


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)


def sign(x: Tensor) -> Tensor:
    """Signs of `x`, each -1 or +1, sign(0) = +1; any shape.

    Backward is the derivative of the piecewise polynomial of Bi-Real Net (Liu et al., ECCV 2018):
    2 - 2|x| inside [-1, 1], zero outside.
    """
    signs: Tensor = _Sign.apply(x)
    return signs


class _BinarizeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centred: Tensor, scale: Tensor, window: Tensor) -> Tensor:
        ctx.save_for_backward(centred, window)
        return (centred >= 0).to(scale.dtype).mul_(2).sub_(1).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        centred, window = ctx.saved_tensors
        return grad * (centred.abs() <= window), None, None


def centre(weight: Tensor) -> Tensor:
    """`weight` (O, ...) less the mean of each output channel."""
    return weight - weight.mean(dim=_inputs(weight), keepdim=True)


def weight_scale(weight: Tensor) -> Tensor:
    """Return mean |w| of each output channel of `weight` (O, ...), (O, 1, ...), detached."""
    return weight.detach().abs().mean(dim=_inputs(weight), keepdim=True)


def binarize_weight(weight: Tensor, recu: bool = False, centred: bool = True) -> Tensor:
    """Latent weights (O, ...) -> scale * sign(weights less their mean), the same shape.

    Without `centred`, signs are those of the weights as they are.
    Gradients pass straight through where the centred weight lies in [-1, 1], then through the centring
    (BHViT, Gao et al., CVPR 2025). The scale is a constant to autograd. With `recu` the centred weights
    are divided by their deviation over 2 sqrt(2), and the window is the quantile RECU_QUANTILE of a
    Laplace distribution of their mean magnitude.
    """
    latent = centre(weight) if centred else weight
    window = torch.ones((), dtype=weight.dtype, device=weight.device)
    if recu:
        variance = latent.var(dim=_inputs(weight), keepdim=True)
        latent = latent / ((variance + 1e-5).sqrt() / (2 * math.sqrt(2)))
        window = -math.log(2 - 2 * RECU_QUANTILE) * latent.detach().abs().mean()
    binary: Tensor = _BinarizeWeight.apply(latent, weight_scale(weight), window)
    return binary


class Sign(nn.Module):
    """Signs of tokens (..., C), with the gradient of `sign`.

    The package's quantiser of activations as a module: what lowerings of registered ones return.
    """

    def forward(self, x: Tensor) -> Tensor:
        return sign(x)


def make_weight_quantizer(config: QuantConfig, outputs: int) -> nn.Module | None:
    """Make the registered quantiser of a layer's weights.

    None for the package's own, or full precision.
    """
    if config.weight_bits == 32 or config.weight_quantizer not in WEIGHT_QUANTIZERS:
        return None
    quantizer: nn.Module = WEIGHT_QUANTIZERS[config.weight_quantizer](outputs)
    return quantizer


def make_activation_quantizer(config: QuantConfig, channels: int) -> nn.Module | None:
    """Make the registered quantiser of a layer's inputs.

    None for the package's own, or full precision.
    """
    if config.activation_bits == 32 or config.activation_quantizer not in ACTIVATION_QUANTIZERS:
        return None
    quantizer: nn.Module = ACTIVATION_QUANTIZERS[config.activation_quantizer](channels)
    return quantizer


def quantize_activations(x: Tensor, config: QuantConfig, quantizer: nn.Module | None = None) -> Tensor:
    """Quantise activations `x` (..., C) where they are one bit.

    `quantizer` does it, by default `sign`.
    """
    if config.activation_bits == 32:
        return x
    quantized: Tensor = sign(x) if quantizer is None else quantizer(x)
    return quantized


def linear_weight(latent: Tensor, config: QuantConfig, quantizer: nn.Module | None = None) -> Tensor:
    """The weights (O, K) that a linear layer multiplies by, from its latent ones."""
    if config.weight_bits == 32 or config.packed:
        return latent
    weight: Tensor = binarize_weight(latent, config.recu) if quantizer is None else quantizer(latent)
    return weight


def conv_weight(latent: Tensor, config: QuantConfig, quantizer: nn.Module | None = None) -> Tensor:
    """The weights (O, I, h, w) that a convolution multiplies by.

    ReCU is for linear layers, as published.
    """
    if config.weight_bits == 32 or config.packed:
        return latent
    weight: Tensor = binarize_weight(latent, centred=config.centre_convs) if quantizer is None else quantizer(latent)
    return weight


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: tuple[int, ...]) -> Tensor:
        scale = x.abs().amax(dim=rows, keepdim=True) / LARGEST_INT8
        scale = torch.where(scale == 0, 1, scale)
        return (x / scale).round().clamp(-LARGEST_INT8, LARGEST_INT8) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def fake_quantize(x: Tensor, bits: int, rows: tuple[int, ...]) -> Tensor:
    """Round `x`, any shape, to a packed file's 8-bit values; not with 32 `bits`.

    All that differ in the axes `rows` only share a scale, their largest magnitude over 127. Gradients pass straight
    through. The arithmetic is that of `float_storage.encode`, so that packing rounds nothing more.
    """
    rounded: Tensor = _FakeQuantize.apply(x, rows) if bits == 8 else x
    return rounded


def _inputs(weight: Tensor) -> tuple[int, ...]:
    return tuple(range(1, weight.ndim))
