"""Layers of a training step on a GPU, fused: the same mathematics in fewer passes over memory, by Triton kernels.

The same functions as in `layers`, which call these for tensors on a GPU: what stands between two matrix products is one
pass forward and two backward, and what enters a product's layer is kept for backward instead of signs, hidden
activations and products of theirs with anything. Under autocast tokens between products are of its type, cast once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...spec.mixers import MIXER_GROUPS
from ...spec.model import ATTENTION_LEVELS, DILATIONS
from ..batch_statistics import processes
from . import triton_calls as calls
from .triton_calls import Unit


def is_used(x: Tensor) -> bool:
    """Whether the functions here compute for x, for which `conditions.applies` is true."""
    return x.is_cuda


def compute_type(x: Tensor) -> torch.dtype:
    """The type of tokens between products: autocast's, or that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)` in training."""
    return _unit(x, None, norm, None)


def signs(x: Tensor, learnable_bias: Tensor) -> Tensor:
    """sign(x + learnable_bias): (..., C) -> the same."""
    ones: Tensor = _Signs.apply(x, learnable_bias, compute_type(x))
    return ones


def binary_weight(latent: Tensor, centred: bool = True, kind: torch.dtype | None = None) -> Tensor:
    """Binary weights of a type from latent ones (O, ...)."""
    weight: Tensor = _BinaryWeight.apply(latent, centred, kind or compute_type(latent))
    return weight


def unit(h: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C)."""
    return _unit(h, residual, norm, activation)


def linear_unit(
    x: Tensor, learnable_bias: Tensor, weight: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module
) -> Tensor:
    """`unit` of sign(x + learnable_bias) times `weight` (O, K), which is binary already: x (..., K)."""
    h = _SignLinear.apply(x, learnable_bias, weight, False, compute_type(x))
    return _unit(h, residual, norm, activation)


def residual_unit(layer: Any, x: Tensor, scale: nn.Module | None = None) -> Tensor:
    """What `mixers.ResidualUnit` computes of x (..., C), and `scale` of that."""
    h = _SignLinear.apply(x, layer.move.bias, layer.linear.weight, True, compute_type(x))
    return _unit(h, x, layer.norm, layer.activation, scale)


def mlp(layer: Any, n: Tensor) -> Tensor:
    """What `network.Mlp` computes of n (..., C)."""
    repeats = layer.linear1.out_features // n.shape[-1]
    if not calls.takes_means(repeats):
        h = _SignLinear.apply(n, layer.move1.bias, layer.linear1.weight, True, compute_type(n))
        u = _unit(h, n, layer.norm1, layer.activation1)
        v = _SignLinear.apply(u, layer.move2.bias, layer.linear2.weight, True, compute_type(n))
        means = u.view(*n.shape, repeats).mean(dim=-1)
        return _unit(v, means, layer.norm2, layer.activation2, layer.scale)
    parameters = [
        *(layer.move1.bias, layer.linear1.weight, layer.norm1.weight, layer.norm1.bias),
        *(layer.activation1.shift_in, layer.activation1.slope, layer.activation1.shift_out),
        *(layer.move2.bias, layer.linear2.weight, layer.norm2.weight, layer.norm2.bias),
        *(layer.activation2.shift_in, layer.activation2.slope, layer.activation2.shift_out),
        *(layer.scale.scale, layer.scale.shift),
    ]
    scaled: Tensor = _Mlp.apply(n, layer.norm1, layer.norm2, compute_type(n), *parameters)
    return scaled


def rprelu_sum(ys: Sequence[Tensor], inputs: Sequence[Tensor], activations: Sequence[Any]) -> Tensor:
    """The sum of activation(y + input + shift_in), `inputs` being biases less `shift_in`."""
    parts = [
        _Unit.apply(
            y, None, None, compute_type(y), None, None, -shift, activation.slope, activation.shift_out, None, None
        )
        for y, shift, activation in zip(ys, inputs, activations, strict=True)
    ]
    return functools.reduce(torch.add, parts)


def grouped_convs(n: Tensor, learnable_bias: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """3x3 convolutions of sign(n + learnable_bias) (B, H, W, C) in groups, one for each dilation, without bias."""
    planes = signs(n, learnable_bias).permute(0, 3, 1, 2)
    return tuple(
        F.conv2d(planes, weight, None, 1, d, d, MIXER_GROUPS).permute(0, 2, 3, 1).contiguous()
        for d, weight in zip(DILATIONS, weights, strict=True)
    )


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of the tokens at `ops.TAPS` from each of n (B, H, W, C)."""
    total: Tensor = _Cross.apply(base, n, taps, shift, cyclic)
    return total


def attention(q: Tensor, k: Tensor, v: Tensor, quantizer: Any) -> Tensor:
    """quantizer(softmax(q k^T / sqrt(d))) v for each head: signs (..., T, C) and twice (..., S, C) -> (..., T, C)."""
    heads = len(quantizer.step)
    q, k, v = (x.view(*x.shape[:-1], heads, -1).transpose(-2, -3) for x in (q, k, v))
    levels = _SoftmaxLevels.apply(
        q @ k.transpose(-1, -2), quantizer.step, quantizer.offset, 1 / math.sqrt(q.shape[-1]), compute_type(q)
    )
    contexts: Tensor = (levels @ v).transpose(-2, -3).flatten(-2)
    return contexts


def _unit(h: Tensor, residual: Tensor | None, norm: Any, activation: Any = None, scale: Any = None) -> Tensor:
    shaped = (None, None, None) if activation is None else (activation.shift_in, activation.slope, activation.shift_out)
    scaled = (None, None) if scale is None else (scale.scale, scale.shift)
    out: Tensor = _Unit.apply(h, residual, norm, compute_type(h), norm.weight, norm.bias, *shaped, *scaled)
    return out


def _cast(gradients: Sequence[Tensor | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of the types of what they are of; None for what is not there."""
    return [
        None if tensor is None or gradient is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, tensors, strict=True)
    ]


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, learnable_bias: Tensor, kind: torch.dtype) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, learnable_bias)
        return calls.signs(x, learnable_bias, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, learnable_bias = ctx.saved_tensors
        return *calls.signs_backward(x, learnable_bias, grad.contiguous()), None


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, centred: bool, kind: torch.dtype) -> Tensor:
        latent = latent.contiguous()
        ctx.save_for_backward(latent)
        ctx.centred = centred
        return calls.binarised(latent, centred, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (latent,) = ctx.saved_tensors
        return calls.binarised_backward(latent, ctx.centred, grad.contiguous()), None, None


def _weight(given: Tensor, latent: bool, kind: torch.dtype) -> Tensor:
    return calls.binarised(given, True, kind) if latent else given.to(kind)


def _linear(signs: Tensor, weight: Tensor) -> Tensor:
    """Products (..., O) of signs (..., K) and a weight (O, K), both of the type that they are computed in."""
    return torch.mm(signs.view(-1, signs.shape[-1]), weight.t()).view(*signs.shape[:-1], len(weight))


def _linear_backward(grad: Tensor, signs: Tensor, weight: Tensor, given: Tensor, latent: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the signs and of what the weight was made from."""
    rows = grad.view(-1, grad.shape[-1])
    own = torch.mm(rows.t(), signs.view(-1, signs.shape[-1]))
    of_weight = calls.binarised_backward(given, True, own) if latent else own.to(given.dtype)
    return torch.mm(rows, weight).view(signs.shape), of_weight


class _SignLinear(torch.autograd.Function):
    """sign(x + learnable_bias) times a weight (O, K): the signs are made again for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, learnable_bias: Tensor, given: Tensor, latent: bool, kind: torch.dtype) -> Tensor:
        x, given = x.contiguous(), given.contiguous()
        ctx.save_for_backward(x, learnable_bias, given)
        ctx.latent, ctx.kind = latent, kind
        return _linear(calls.signs(x, learnable_bias, kind), _weight(given, latent, kind))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, learnable_bias, given = ctx.saved_tensors
        signs, weight = calls.signs(x, learnable_bias, ctx.kind), _weight(given, ctx.latent, ctx.kind)
        of_signs, of_weight = _linear_backward(grad.contiguous(), signs, weight, given, ctx.latent)
        return *calls.signs_backward(x, learnable_bias, of_signs), of_weight, None, None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, residual: Tensor | None, norm: Any, kind: torch.dtype, *parameters: Tensor | None
    ) -> Tensor:
        h = h.contiguous()
        residual = None if residual is None else residual.contiguous()
        mean, inverse = (None, None) if norm is None else calls.moments(norm, h)
        ctx.save_for_backward(h, residual, mean, inverse, *parameters)
        return Unit(h, residual, mean, inverse, *parameters).output(kind)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit = Unit(*ctx.saved_tensors)
        of_h, of_residual, *others = unit.gradients(grad.contiguous())
        return of_h, of_residual, None, None, *_cast(others[:7], unit[4:11])


class _Mlp(torch.autograd.Function):
    """Both units of an MLP: of what has the hidden channels, only the first product is kept for backward."""

    @staticmethod
    def forward(ctx: Any, n: Tensor, norm1: Any, norm2: Any, kind: torch.dtype, *parameters: Tensor) -> Tensor:
        n = n.contiguous()
        learnable_bias1, given1, *inner = parameters[:7]
        learnable_bias2, given2, *outer = parameters[7:]
        h = _linear(calls.signs(n, learnable_bias1, kind), _weight(given1, True, kind))
        moments1 = calls.moments(norm1, h)
        signs, means = Unit(h, n, *moments1, *inner)._replace(learnable_bias=learnable_bias2).output(kind)
        assert means is not None
        v = _linear(signs, _weight(given2, True, kind))
        moments2 = calls.moments(norm2, v)
        ctx.save_for_backward(n, h, *moments1, means, v, *moments2, *parameters)
        ctx.kind = kind
        return Unit(v, means, *moments2, *outer).output(kind)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, h, mean1, inverse1, means, v, mean2, inverse2, *parameters = ctx.saved_tensors
        kind = ctx.kind
        learnable_bias1, given1, *inner = parameters[:7]
        learnable_bias2, given2, *outer = parameters[7:]
        hidden = Unit(h, n, mean1, inverse1, *inner)._replace(learnable_bias=learnable_bias2)
        of_v, of_means, *of_outer = Unit(v, means, mean2, inverse2, *outer).gradients(grad.contiguous())
        assert of_v is not None
        of_signs, of_given2 = _linear_backward(of_v, hidden.output(kind)[0], _weight(given2, True, kind), given2, True)
        of_h, of_n, *of_inner, _, _, of_move2 = hidden.gradients(of_signs, of_means)
        assert of_h is not None
        weight1 = _weight(given1, True, kind)
        of_signs, of_given1 = _linear_backward(of_h, calls.signs(n, learnable_bias1, kind), weight1, given1, True)
        of_n, of_move1 = calls.signs_backward(n, learnable_bias1, of_signs, of_n)
        assert of_move2 is not None
        return (
            *(of_n, None, None, None),
            *(of_move1, of_given1, *_cast(of_inner, inner)),
            *(of_move2.to(learnable_bias2.dtype), of_given2, *_cast(of_outer[:7], outer)),
        )


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
        base, n, taps = base.contiguous(), n.contiguous(), taps.contiguous()
        ctx.save_for_backward(n, taps)
        ctx.cyclic = cyclic
        return calls.cross(base, n, taps, shift, cyclic)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, taps = ctx.saved_tensors
        grad = grad.contiguous()
        of_n, of_taps, of_shift = calls.cross_backward(n, taps, ctx.cyclic, grad)
        return grad, of_n, of_taps.to(taps.dtype), of_shift.to(taps.dtype), None


class _SoftmaxLevels(torch.autograd.Function):
    """Quantised probabilities; the scores alone are kept for backward, whole numbers that 8 bits hold if d does."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, step: Tensor, offset: Tensor, factor: float, kind: torch.dtype) -> Tensor:
        scores = scores.contiguous()
        ctx.save_for_backward(scores, step, offset)
        ctx.factor = factor
        return calls.softmax_levels(scores, step, offset, factor, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, step, offset = ctx.saved_tensors
        own, of_step, of_offset = calls.softmax_levels_backward(scores, step, offset, ctx.factor, grad.contiguous())
        # As `DecomposedAttention` scales them, after LSQ (Esser et al., ICLR 2020).
        scale = len(step) / math.sqrt(ATTENTION_LEVELS * scores.numel() * processes())
        return own, (of_step * scale).to(step.dtype), (of_offset * scale).to(offset.dtype), None, None
