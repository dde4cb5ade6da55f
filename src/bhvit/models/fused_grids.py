"""What looks at neighbours in a training step on a CPU, fused as in `fused`, whose `applies` is asked first.

Grids of tokens are (B, H, W, C) of float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ops import TAPS
from ..spec import DILATIONS, MIXER_GROUPS
from . import training_kernels as native
from .training_kernels import at, channels_of, grid_of, signs_backward, signs_of

_OFFSETS = [step for tap in TAPS for step in tap]


def grouped_convs(n: Tensor, move: Tensor, weights: Sequence[Tensor], binary: bool) -> tuple[Tensor, ...]:
    """3x3 convolutions of sign(n + move) (B, H, W, C) in groups, one for each dilation, without bias."""
    convs: tuple[Tensor, ...] = _GroupedConvs.apply(n, move, binary, *weights)
    return convs


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of the tokens at `ops.TAPS` from each of n (B, H, W, C)."""
    total: Tensor = _Cross.apply(base, n, taps, shift, cyclic)
    return total


class _GroupedConvs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, n: Tensor, move: Tensor, binary: bool, *weights: Tensor) -> tuple[Tensor, ...]:
        n, move = n.contiguous(), move.contiguous()
        ctx.save_for_backward(n, move, *weights)
        ctx.binary = binary
        signs = signs_of(n, move, binary)
        outs = []
        for dilation, weight in zip(DILATIONS, weights, strict=True):
            out = torch.empty_like(n)
            taps = _grouped(weight).permute(0, 3, 2, 1).contiguous()
            native.kernels(n).conv(*grid_of(n), MIXER_GROUPS, dilation, False, at(signs), at(taps), at(out))
            outs.append(out)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, move, *weights = ctx.saved_tensors
        signs, dsigns, kernels = signs_of(n, move, ctx.binary), torch.empty_like(n), native.kernels(n)
        dweights = []
        for index, (dilation, weight, grad) in enumerate(zip(DILATIONS, weights, grads, strict=True)):
            grad = grad.contiguous()
            # What a tap brings from one side its gradient takes back to the other.
            taps = _grouped(weight).flip(3).permute(0, 3, 1, 2).contiguous()
            kernels.conv(*grid_of(n), MIXER_GROUPS, dilation, index > 0, at(grad), at(taps), at(dsigns))
            kernels.conv_weights(*grid_of(n), MIXER_GROUPS, dilation, at(signs), at(grad), at(taps))
            dweights.append(taps.permute(0, 3, 2, 1).reshape(weight.shape))
        dn, dmove = signs_backward(n, move, ctx.binary, dsigns)
        return dn, dmove, None, *dweights


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
        base, n, taps = base.contiguous(), n.contiguous(), taps.contiguous()
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
