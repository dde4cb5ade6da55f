"""Quantisers: how real numbers become bits in the forward pass and how gradients get past them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..spec import ATTENTION_LEVELS


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
    def forward(ctx: Any, centred: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(centred)
        return (centred >= 0).to(scale.dtype).mul_(2).sub_(1).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (centred,) = ctx.saved_tensors
        return grad * (centred.abs() <= 1), None


def centre(weight: Tensor) -> Tensor:
    """`weight` (O, ...) less the mean of each output channel."""
    return weight - weight.mean(dim=tuple(range(1, weight.ndim)), keepdim=True)


def weight_scale(weight: Tensor) -> Tensor:
    """The scale of each output channel of `weight` (O, ...): mean |w|, shape (O, 1, ...), no gradient."""
    return weight.detach().abs().mean(dim=tuple(range(1, weight.ndim)), keepdim=True)


def binarize_weight(weight: Tensor) -> Tensor:
    """Latent weights (O, ...) -> scale * sign(centred weights), the same shape.

    Gradients pass straight through where the centred weight lies in [-1, 1], then through the centring
    (BHViT, Gao et al., CVPR 2025). The scale is a constant to autograd.
    """
    binary: Tensor = _BinarizeWeight.apply(centre(weight), weight_scale(weight))
    return binary


class DecomposedAttention(nn.Module):
    """Quantisation decomposition of the attention matrix (BHViT, Gao et al., CVPR 2025): levels 0..3 a head.

    P (..., heads, T, T) -> level * step with level = clamp(round(3P/step + offset), 0, 3). A level is a
    sum of two bit planes, so that the product with binary values is AND and population count. `step` and
    `offset` learn as in LSQ (Esser et al., ICLR 2020), their gradients scaled by heads/sqrt(3 * numel).
    The first batch in training mode sets them from the data, once.
    """

    initialised: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.ones(heads))
        self.offset = nn.Parameter(torch.zeros(heads))
        self.register_buffer("initialised", torch.zeros(1))

    @torch.no_grad()
    def _initialise(self, scaled: Tensor) -> None:
        per_head = scaled.transpose(0, -3).flatten(1)  # (heads, everything else)
        self.step.copy_(2 * per_head.abs().mean(dim=1) / math.sqrt(ATTENTION_LEVELS))
        self.offset.copy_(0.9 * self.offset + 0.1 * per_head.amin(dim=1))
        self.initialised.fill_(1)

    def forward(self, probabilities: Tensor) -> Tensor:
        scaled = ATTENTION_LEVELS * probabilities
        if self.training and self.initialised == 0:
            self._initialise(scaled)
        gradient_scale = len(self.step) / math.sqrt(ATTENTION_LEVELS * scaled.numel())
        step = _scale_gradient(self.step, gradient_scale).view(-1, 1, 1)
        offset = _scale_gradient(self.offset, gradient_scale).view(-1, 1, 1)
        return _round_through(scaled / step + offset).clamp(0, ATTENTION_LEVELS) * step


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    scaled = x * scale
    return x.detach() - scaled.detach() + scaled


def _round_through(x: Tensor) -> Tensor:
    # In this order, as published: the sum may miss a level by one rounding, and the highest level's
    # gradient is then clamped away. Recorded gradients hold that too.
    return x.round().detach() - x.detach() + x
