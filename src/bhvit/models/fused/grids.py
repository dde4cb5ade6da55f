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
from ...spec.mixers import MIXER_GROUPS
from ...spec.model import DILATIONS
from ..quant_config import QuantConfig
from . import gpu
from . import kernels as native
from .gradients import Gradients, by_name
from .kernels import per_channel, threads
from .parts import signs_as_numbers, signs_backward


def grouped_convs(
    n: Tensor, learnable_bias: Tensor, weights: Sequence[Tensor], config: QuantConfig
) -> tuple[Tensor, ...]:
    """3x3 convolutions of sign(n + learnable_bias) (B, H, W, C) in groups, one for each dilation, without bias."""
    if gpu.is_used(n):
        return gpu.grouped_convs(n, learnable_bias, weights)
    convs: tuple[Tensor, ...] = _GroupedConvs.apply(n, learnable_bias, config, *weights)
    return convs


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of the tokens at `ops.TAPS` from each of n (B, H, W, C)."""
    if gpu.is_used(n):
        return gpu.cross(base, n, taps, shift, cyclic)
    total: Tensor = _Cross.apply(base, n, taps, shift, cyclic)
    return total


def conv(x: Tensor, weight: Tensor, dilation: int, config: QuantConfig) -> Tensor:
    """x (B, H, W, C), its signs if `config` has it so, convolved with `weight` (C, C / groups, 3, 3) in groups."""
    kernels, taps, out = native.kernels(x), _grouped(weight).permute(0, 3, 2, 1).contiguous(), torch.empty_like(x)
    if config.activation_bits == 1 and config.weight_bits == 1:
        kernels.binary_conv(x=x, weights=taps, dilation=dilation, threads=threads(), out=out)
    else:
        kernels.conv(x=x, weights=taps, dilation=dilation, add=False, threads=threads(), out=out)
    return out


def add_conv_input(grad: Tensor, weight: Tensor, dilation: int, config: QuantConfig, dx: Tensor) -> None:
    """Add to dx the gradient of the input of `conv` for `grad`, that of its result."""
    # What a tap brings from one side its gradient takes back to the other.
    kernels, taps = native.kernels(grad), _grouped(weight).flip(3).permute(0, 3, 1, 2).contiguous()
    multiply = kernels.sign_conv if config.weight_bits == 1 and kernels.multiplies_signs else kernels.conv
    multiply(x=grad, weights=taps, dilation=dilation, add=True, threads=threads(), out=dx)


def conv_weights(x: Tensor, grad: Tensor, weight: Tensor, dilation: int, config: QuantConfig) -> Tensor:
    """The gradient of the weight of `conv` for `grad`, that of its result."""
    kernels = native.kernels(x)
    taps = weight.new_empty(MIXER_GROUPS, 9, weight.shape[1], weight.shape[1])
    by_signs = config.activation_bits == 1
    sum_up = kernels.sign_conv_weights if by_signs and kernels.multiplies_signs else kernels.conv_weights
    sum_up(x=x, dilation=dilation, threads=threads(), out_grad=grad, weights_grad=taps)
    return taps.permute(0, 3, 2, 1).reshape(weight.shape)


class _GroupedConvs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, n: Tensor, learnable_bias: Tensor, config: QuantConfig, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        n, learnable_bias = n.contiguous(), learnable_bias.contiguous()
        ctx.save_for_backward(n, learnable_bias, *weights)
        ctx.config = config
        signs = signs_as_numbers(n, learnable_bias, config.activation_bits == 1)
        return tuple(conv(signs, weight, dilation, config) for dilation, weight in zip(DILATIONS, weights, strict=True))

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        n, learnable_bias, *weights = ctx.saved_tensors
        binary = ctx.config.activation_bits == 1
        signs, dsigns, dweights = signs_as_numbers(n, learnable_bias, binary), torch.zeros_like(n), []
        for dilation, weight, grad in zip(DILATIONS, weights, grads, strict=True):
            grad = grad.contiguous()
            add_conv_input(grad, weight, dilation, ctx.config, dsigns)
            dweights.append(conv_weights(signs, grad, weight, dilation, ctx.config))
        dn, dlearnable_bias = signs_backward(n, learnable_bias, binary, dsigns)
        return {"n": dn, "learnable_bias": dlearnable_bias, "weights": tuple(dweights)}


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
        base, n, taps, shift = base.contiguous(), n.contiguous(), taps.contiguous(), shift.contiguous()
        ctx.save_for_backward(n, taps)
        ctx.cyclic = cyclic
        out = torch.empty_like(n)
        native.kernels(n).cross(
            x=n, taps=taps, shift=shift, base=base, offsets=TAPS, cyclic=cyclic, threads=threads(), out=out
        )
        return out

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        n, taps = ctx.saved_tensors
        grad, dn, dtaps, dshift = grad.contiguous(), torch.empty_like(n), torch.empty_like(taps), per_channel(n)
        native.kernels(n).cross_backward(
            x=n,
            taps=taps,
            offsets=TAPS,
            cyclic=ctx.cyclic,
            threads=threads(),
            out_grad=grad,
            x_grad=dn,
            taps_grad=dtaps,
            shift_grad=dshift,
        )
        return {"base": grad, "n": dn, "taps": dtaps, "shift": dshift}


def _grouped(weight: Tensor) -> Tensor:
    """(C, C / groups, 3, 3) -> (groups, outputs, inputs, 9)."""
    return weight.view(MIXER_GROUPS, -1, weight.shape[1], 9)
