"""What looks at neighbours in a training step on a CPU, fused as in `fused`, whose `applies` is asked first.

Grids of tokens are (B, H, W, C) of float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...format.arithmetic import TAPS
from ...spec.model import DILATIONS, MIXER_GROUPS
from ..quant_config import QuantConfig
from . import kernels as native
from .kernels import at, channels_of, grid_of
from .parts import signs_as_numbers, signs_backward

_OFFSETS = [step for tap in TAPS for step in tap]


def grouped_convs(n: Tensor, move: Tensor, weights: Sequence[Tensor], config: QuantConfig) -> tuple[Tensor, ...]:
    """3x3 convolutions of sign(n + move) (B, H, W, C) in groups, one for each dilation, without bias."""
    convs: tuple[Tensor, ...] = _GroupedConvs.apply(n, move, config, *weights)
    return convs


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of the tokens at `ops.TAPS` from each of n (B, H, W, C)."""
    total: Tensor = _Cross.apply(base, n, taps, shift, cyclic)
    return total


def conv(x: Tensor, weight: Tensor, dilation: int, config: QuantConfig) -> Tensor:
    """x (B, H, W, C), its signs if `config` has it so, convolved with `weight` (C, C / groups, 3, 3) in groups."""
    kernels, taps, out = native.kernels(x), _grouped(weight).permute(0, 3, 2, 1).contiguous(), torch.empty_like(x)
    if config.activation_bits == 1 and config.weight_bits == 1:
        kernels.binary_conv(*grid_of(x), MIXER_GROUPS, dilation, at(x), at(taps), at(out))
    else:
        kernels.conv(*grid_of(x), MIXER_GROUPS, dilation, False, at(x), at(taps), at(out))
    return out


def add_conv_input(grad: Tensor, weight: Tensor, dilation: int, config: QuantConfig, dx: Tensor) -> None:
    """Add to dx the gradient of the input of `conv` for `grad`, that of its result."""
    # What a tap brings from one side its gradient takes back to the other.
    kernels, taps = native.kernels(grad), _grouped(weight).flip(3).permute(0, 3, 1, 2).contiguous()
    multiply = kernels.sign_conv if config.weight_bits == 1 and kernels.multiplies_signs else kernels.conv
    multiply(*grid_of(grad), MIXER_GROUPS, dilation, True, at(grad), at(taps), at(dx))


def conv_weights(x: Tensor, grad: Tensor, weight: Tensor, dilation: int, config: QuantConfig) -> Tensor:
    """The gradient of the weight of `conv` for `grad`, that of its result."""
    kernels = native.kernels(x)
    taps = weight.new_empty(MIXER_GROUPS, 9, weight.shape[1], weight.shape[1])
    by_signs = config.activation_bits == 1
    sum_up = kernels.sign_conv_weights if by_signs and kernels.multiplies_signs else kernels.conv_weights
    sum_up(*grid_of(x), MIXER_GROUPS, dilation, at(x), at(grad), at(taps))
    return taps.permute(0, 3, 2, 1).reshape(weight.shape)


class _GroupedConvs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, n: Tensor, move: Tensor, config: QuantConfig, *weights: Tensor) -> tuple[Tensor, ...]:
        n, move = n.contiguous(), move.contiguous()
        ctx.save_for_backward(n, move, *weights)
        ctx.config = config
        signs = signs_as_numbers(n, move, config.activation_bits == 1)
        return tuple(conv(signs, weight, dilation, config) for dilation, weight in zip(DILATIONS, weights, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, move, *weights = ctx.saved_tensors
        binary = ctx.config.activation_bits == 1
        signs, dsigns, dweights = signs_as_numbers(n, move, binary), torch.zeros_like(n), []
        for dilation, weight, grad in zip(DILATIONS, weights, grads, strict=True):
            grad = grad.contiguous()
            add_conv_input(grad, weight, dilation, ctx.config, dsigns)
            dweights.append(conv_weights(signs, grad, weight, dilation, ctx.config))
        dn, dmove = signs_backward(n, move, binary, dsigns)
        return dn, dmove, None, *dweights


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
        base, n, taps = base.contiguous(), n.contiguous(), taps.contiguous()
        native.check_like(n, base)
        native.check_channels(n, shift)
        if taps.dtype is not n.dtype or taps.shape != (len(TAPS), n.shape[-1]):
            raise ValueError(f"taps of shape {tuple(taps.shape)} do not go with {n.shape[-1]} channels")
        ctx.save_for_backward(n, taps)
        ctx.cyclic = cyclic
        out = torch.empty_like(base)
        native.kernels(n).cross(*grid_of(n), _OFFSETS, cyclic, at(n), at(taps), at(shift), at(base), at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, taps = ctx.saved_tensors
        grad, dn, dtaps, (dshift,) = grad.contiguous(), torch.empty_like(n), torch.empty_like(taps), channels_of(n, 1)
        native.kernels(n).cross_backward(
            *grid_of(n), _OFFSETS, ctx.cyclic, at(n), at(taps), at(grad), at(dn), at(dtaps), at(dshift)
        )
        return grad, dn, dtaps, dshift, None


def _grouped(weight: Tensor) -> Tensor:
    """(C, C / groups, 3, 3) -> (groups, outputs, inputs, 9)."""
    return weight.view(MIXER_GROUPS, -1, weight.shape[1], 9)
