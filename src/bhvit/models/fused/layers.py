"""Layers of a training step on a CPU, fused: the same mathematics in fewer passes over memory.

What stands between two matrix products (batch norm, residual, RPReLU, LayerScale, sign) is one native pass forward and
two backward, and only what enters a product's layer is kept for backward: activations are computed again, signs and
binary weights are bits. Layers ask `applies` and otherwise compute as they are written, which is what evaluation, GPUs,
several processes, other norms and `torch.compile` take. Tensors are tokens (..., channels) of float32 or float64.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..quant_config import QuantConfig
from ..quantizers import linear_weight
from . import kernels as native
from .conditions import applies as applies
from .kernels import all_at, at, channels_of, shape_of
from .parts import (
    Moments,
    Unit,
    Weight,
    are_words,
    binarised,
    binarised_backward,
    signs_as_numbers,
    signs_backward,
    signs_of,
)


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)` in training."""
    normalised: Tensor = _BatchNorm.apply(x, norm, norm.weight, norm.bias)
    return normalised


def binary_weight(latent: Tensor, centred: bool = True) -> Tensor:
    """`quantizers.binarize_weight` of latent weights (O, ...), for layers that ask of it neither more nor less."""
    weight: Tensor = _BinaryWeight.apply(latent, centred)
    return weight


def conv_weight(latent: Tensor, config: QuantConfig) -> Tensor:
    """`quantizers.conv_weight` of latent weights (O, I, h, w)."""
    return latent if config.weight_bits == 32 else binary_weight(latent, config.centre_convs)


def signs(x: Tensor, move: Tensor) -> Tensor:
    """sign(x + move): (..., C) -> the same."""
    ones: Tensor = _Signs.apply(x, move)
    return ones


def unit(h: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C)."""
    activated: Tensor = _Unit.apply(h, residual, norm, *_parameters(norm, activation))
    return activated


def linear_unit(
    x: Tensor,
    move: Tensor,
    weight: Tensor,
    residual: Tensor,
    norm: nn.Module,
    activation: nn.Module,
    config: QuantConfig,
) -> Tensor:
    """`unit` of h = sign(x + move), or x + move as `config` has it, times `weight` (O, K) as it is: x (..., K)."""
    parameters = _parameters(norm, activation)
    activated: Tensor = _LinearUnit.apply(x, residual, move, weight, False, norm, config, *parameters, None, None)
    return activated


def residual_unit(layer: Any, x: Tensor, scale: nn.Module | None = None) -> Tensor:
    """What `mixers.ResidualUnit` computes of x (..., C), and `scale` of that."""
    config = layer.linear.quant
    parameters = *_parameters(layer.norm, layer.activation), *_layer_scale(scale)
    (weight,), latent = _weights(config, layer.linear)
    activated: Tensor = _LinearUnit.apply(x, None, layer.move.bias, weight, latent, layer.norm, config, *parameters)
    return activated


def mlp(layer: Any, n: Tensor) -> Tensor:
    """What `network.Mlp` computes of n (..., C); see `fits_mlp`."""
    config = layer.linear1.quant
    weights, latent = _weights(config, layer.linear1, layer.linear2)
    parameters = *_parameters(layer.norm1, layer.activation1), *_parameters(layer.norm2, layer.activation2)
    norms, moves = (layer.norm1, layer.norm2), (layer.move1.bias, layer.move2.bias)
    scaled: Tensor = _Mlp.apply(n, *moves, *weights, latent, config, *norms, *parameters, *_layer_scale(layer.scale))
    return scaled


def fits_mlp(hidden: int, channels: int) -> bool:
    """Whether `mlp` can: means of hidden channels must not cross the tiles of the residual."""
    return hidden % channels == 0 and channels % (hidden // channels) == 0


def rprelu_sum(ys: Sequence[Tensor], biases: Sequence[Any], activations: Sequence[Any]) -> Tensor:
    """The sum of activation(y + bias)."""
    inputs = [bias - activation.shift_in for bias, activation in zip(biases, activations, strict=True)]
    # Not stack and sum, whose backward gives all of them one memory: see `layers.ShiftBranches`.
    shift = functools.reduce(torch.add, [activation.shift_out for activation in activations])
    total: Tensor = _RPReLUSum.apply(shift, *ys, *inputs, *(activation.slope for activation in activations))
    return total


def _weights(config: QuantConfig, *layers: Any) -> tuple[list[Tensor], bool]:
    """Weights of linear layers as nodes take them, and whether they are latent ones, which become binary there."""
    if config.weight_bits == 1 and not config.recu:
        return [layer.weight for layer in layers], True
    return [linear_weight(layer.weight, config) for layer in layers], False


def _parameters(norm: Any, activation: Any) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, activation.shift_in, activation.slope, activation.shift_out


def _layer_scale(scale: Any) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if scale is None else (scale.scale, scale.shift)


def _contiguous(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.Module, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        native.check_channels(x, weight, bias)
        operands = [*Moments.of(norm, x), weight.contiguous(), bias.contiguous()]
        out = torch.empty_like(x)
        native.kernels(x).normalise(*shape_of(x), at(x), all_at(operands), at(out))
        ctx.save_for_backward(x, *operands)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *operands = ctx.saved_tensors
        grad, dx = grad.contiguous(), torch.empty_like(x)
        weight, bias = channels_of(x, 2)
        kernels = native.kernels(x)
        kernels.normalise_backward(*shape_of(x), at(x), all_at(operands), at(grad), at(dx), at(weight), at(bias))
        return dx, None, weight, bias


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, centred: bool) -> Tensor:
        latent = latent.contiguous()
        centre = latent.flatten(1).mean(dim=1) if centred else None
        ctx.save_for_backward(latent, centre)
        return binarised(latent, centre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        latent, centre = ctx.saved_tensors
        # Nothing but the functions here ever sees this gradient, so that its memory may become that of the latent ones.
        return binarised_backward(latent, centre, grad.contiguous()), None


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor) -> Tensor:
        x, move = x.contiguous(), move.contiguous()
        ctx.save_for_backward(x, move)
        return signs_as_numbers(x, move, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, move = ctx.saved_tensors
        return signs_backward(x, move, True, grad.contiguous())


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, residual: Tensor, norm: nn.Module, *parameters: Tensor) -> Tensor:
        h, residual, *parameters = _contiguous((h, residual, *parameters))  # type: ignore[assignment]
        unit = Unit(h, residual, *Moments.of(norm, h), *parameters)
        ctx.save_for_backward(*unit)
        return unit.output()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dh, dresidual, sums = Unit(*ctx.saved_tensors).gradients(grad.contiguous())
        return dh, dresidual, None, *sums[:5]


class _LinearUnit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        move: Tensor,
        given: Tensor,
        latent: bool,
        norm: nn.Module,
        config: QuantConfig,
        *parameters: Tensor | None,
    ) -> Tensor:
        x, residual, move, *parameters = _contiguous((x, residual, move, *parameters))  # type: ignore[assignment]
        ctx.binary, ctx.own = config.activation_bits == 1, residual is None
        signs, weight = signs_of(x, move, ctx.binary), Weight.of(given, latent, config.weight_bits == 1)
        h, moments = weight.times(signs, norm)
        unit = Unit(h, x if residual is None else residual, *moments, *parameters)  # type: ignore[arg-type]
        ctx.save_for_backward(x, move, _kept(signs), *weight, *unit)
        return unit.output()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, move, signs, *parts = ctx.saved_tensors
        weight, unit = _parts(parts, Weight, Unit)
        dh, dresidual, sums = unit.gradients(grad.contiguous())
        dweight = weight.gradient(dh, signs_as_numbers(x, move, ctx.binary) if signs is None else signs)
        dsigns = weight.input_gradient(dh, torch.empty_like(x))
        dx, dmove = signs_backward(x, move, ctx.binary, dsigns, dresidual if ctx.own else None)
        return dx, None if ctx.own else dresidual, dmove, dweight, None, None, None, *sums[:7]


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        n: Tensor,
        move1: Tensor,
        move2: Tensor,
        given1: Tensor,
        given2: Tensor,
        latent: bool,
        config: QuantConfig,
        norm1: nn.Module,
        norm2: nn.Module,
        *parameters: Tensor,
    ) -> Tensor:
        n, move1, move2, *parameters = _contiguous((n, move1, move2, *parameters))  # type: ignore[assignment]
        ctx.binary, binary_weight = config.activation_bits == 1, config.weight_bits == 1
        weight1, weight2 = (Weight.of(given, latent, binary_weight) for given in (given1, given2))
        signs1 = signs_of(n, move1, ctx.binary)
        h, moments1 = weight1.times(signs1, norm1)
        hidden = Unit(h, n, *moments1, *parameters[:5])._replace(move=move2)
        signs2, means = hidden.signs(ctx.binary)
        v, moments2 = weight2.times(signs2, norm2)
        unit = Unit(v, means, *moments2, *parameters[5:])
        ctx.save_for_backward(move1, _kept(signs1), _kept(signs2), *weight1, *weight2, *hidden, *unit)
        return unit.output()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        move1, signs1, signs2, *parts = ctx.saved_tensors
        weight1, weight2, hidden, unit = _parts(parts, Weight, Weight, Unit, Unit)
        n = hidden.residual
        dv, dmeans, sums2 = unit.gradients(grad.contiguous())
        dweight2 = weight2.gradient(dv, hidden.signs(ctx.binary)[0] if signs2 is None else signs2)
        dsigns2 = weight2.input_gradient(dv, torch.empty_like(hidden.h))
        dh, dn, sums1 = hidden.gradients(None, dsigns2, dmeans, ctx.binary)
        dweight1 = weight1.gradient(dh, signs_as_numbers(n, move1, ctx.binary) if signs1 is None else signs1)
        dsigns1 = weight1.input_gradient(dh, torch.empty_like(n))
        _, dmove1 = signs_backward(n, move1, ctx.binary, dsigns1, dn)
        return dn, dmove1, sums1[7], dweight1, dweight2, None, None, None, None, *sums1[:5], *sums2[:7]


class _RPReLUSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, *operands: Tensor) -> Tensor:
        operands = tuple(_contiguous(operands))
        ctx.save_for_backward(*operands)
        ys, inputs, slopes = _thirds(operands)
        native.check_like(ys[0], *ys)
        native.check_channels(ys[0], shift, *inputs, *slopes)
        out = torch.empty_like(ys[0])
        native.kernels(out).branches(*shape_of(out), all_at(ys), all_at(inputs), all_at(slopes), at(shift), at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ys, inputs, slopes = _thirds(ctx.saved_tensors)
        grad = grad.contiguous()
        dys = [torch.empty_like(y) for y in ys]
        dinputs, dslopes, (dshift,) = channels_of(grad, len(ys)), channels_of(grad, len(ys)), channels_of(grad, 1)
        native.kernels(grad).branches_backward(
            *shape_of(grad),
            all_at(ys),
            all_at(inputs),
            all_at(slopes),
            at(grad),
            all_at(dys),
            all_at(dinputs),
            all_at(dslopes),
            at(dshift),
        )
        return dshift, *dys, *dinputs, *dslopes


def _parts(tensors: Sequence[Any], *kinds: Any) -> list[Any]:
    """Tuples of these kinds, one after the other, from the tensors of all."""
    rest = iter(tensors)
    return [kind(*itertools.islice(rest, len(kind._fields))) for kind in kinds]


def _kept(signs: Tensor) -> Tensor | None:
    """What is saved of signs: numbers are made again."""
    return signs if are_words(signs) else None


def _thirds(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 3
    return tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
