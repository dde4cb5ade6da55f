"""Layers of a training step, fused: the same mathematics in fewer passes over memory. What is here is for CPUs, and
calls `gpu` for tensors on a GPU.

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
from . import gpu
from . import kernels as native
from .conditions import applies as applies
from .gradients import Gradients, by_name
from .kernels import per_channel, threads
from .parts import (
    Moments,
    Unit,
    UnitParameters,
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
    if gpu.is_used(x):
        return gpu.batch_norm(norm, x)
    normalised: Tensor = _BatchNorm.apply(x, norm, norm.weight, norm.bias)
    return normalised


def binary_weight(latent: Tensor, centred: bool = True) -> Tensor:
    """`quantizers.binarize_weight` of latent weights (O, ...), for layers that ask of it neither more nor less."""
    if gpu.is_used(latent):
        return gpu.binary_weight(latent, centred)
    weight: Tensor = _BinaryWeight.apply(latent, centred)
    return weight


def conv_weight(latent: Tensor, config: QuantConfig) -> Tensor:
    """`quantizers.conv_weight` of latent weights (O, I, h, w)."""
    return latent if config.weight_bits == 32 else binary_weight(latent, config.centre_convs)


def signs(x: Tensor, learnable_bias: Tensor) -> Tensor:
    """sign(x + learnable_bias): (..., C) -> the same."""
    if gpu.is_used(x):
        return gpu.signs(x, learnable_bias)
    ones: Tensor = _Signs.apply(x, learnable_bias)
    return ones


def unit(h: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C)."""
    if gpu.is_used(h):
        return gpu.unit(h, residual, norm, activation)
    activated: Tensor = _Unit.apply(h, residual, norm, *_learned(norm, activation))
    return activated


def linear_unit(
    x: Tensor,
    learnable_bias: Tensor,
    weight: Tensor,
    residual: Tensor,
    norm: nn.Module,
    activation: nn.Module,
    config: QuantConfig,
) -> Tensor:
    """`unit` of sign(x + learnable_bias), or of that sum (`config`), times `weight` (O, K) as it is: x (..., K)."""
    if gpu.is_used(x):
        return gpu.linear_unit(x, learnable_bias, weight, residual, norm, activation)
    learned = _learned(norm, activation)
    activated: Tensor = _LinearUnit.apply(x, residual, learnable_bias, weight, False, norm, config, *learned)
    return activated


def residual_unit(layer: Any, x: Tensor, scale: nn.Module | None = None) -> Tensor:
    """What `mixers.ResidualUnit` computes of x (..., C), and `scale` of that."""
    if gpu.is_used(x):
        return gpu.residual_unit(layer, x, scale)
    config = layer.linear.quant
    learned = _learned(layer.norm, layer.activation, scale)
    (weight,), latent = _weights(config, layer.linear)
    activated: Tensor = _LinearUnit.apply(x, None, layer.move.bias, weight, latent, layer.norm, config, *learned)
    return activated


def mlp(layer: Any, n: Tensor) -> Tensor:
    """What `network.Mlp` computes of n (..., C); see `fits_mlp`."""
    if gpu.is_used(n):
        return gpu.mlp(layer, n)
    config = layer.linear1.quant
    weights, latent = _weights(config, layer.linear1, layer.linear2)
    hidden = _learned(layer.norm1, layer.activation1)
    output = _learned(layer.norm2, layer.activation2, layer.scale)
    norms, biases = (layer.norm1, layer.norm2), (layer.move1.bias, layer.move2.bias)
    scaled: Tensor = _Mlp.apply(n, *biases, *weights, latent, config, *norms, *hidden, *output)
    return scaled


def fits_mlp(hidden: int, channels: int) -> bool:
    """Whether `mlp` can: means of hidden channels must not cross the tiles of the residual."""
    return hidden % channels == 0 and channels % (hidden // channels) == 0


def rprelu_sum(ys: Sequence[Tensor], biases: Sequence[Any], activations: Sequence[Any]) -> Tensor:
    """The sum of activation(y + bias)."""
    inputs = [bias - activation.shift_in for bias, activation in zip(biases, activations, strict=True)]
    if gpu.is_used(ys[0]):
        return gpu.rprelu_sum(ys, inputs, activations)
    # Not stack and sum, whose backward gives all of them one memory: see `layers.ShiftBranches`.
    shift = functools.reduce(torch.add, [activation.shift_out for activation in activations])
    total: Tensor = _RPReLUSum.apply(shift, *ys, *inputs, *(activation.slope for activation in activations))
    return total


def _weights(config: QuantConfig, *layers: Any) -> tuple[list[Tensor], bool]:
    """Weights of linear layers as nodes take them, and whether they are latent ones, which become binary there."""
    if config.weight_bits == 1 and not config.recu:
        return [layer.weight for layer in layers], True
    return [linear_weight(layer.weight, config) for layer in layers], False


def _learned(norm: Any, activation: Any, scale: Any = None) -> UnitParameters:
    """What the unit of these modules learns; `scale` is its LayerScale."""
    learned = UnitParameters(norm.weight, norm.bias, activation.shift_in, activation.slope, activation.shift_out)
    return learned if scale is None else learned._replace(scale=scale.scale, shift=scale.shift)


def _contiguous(tensors: Sequence[Tensor | None]) -> list[Any]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.Module, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = _contiguous((x, weight, bias))
        moments, out = Moments.of(norm, x), torch.empty_like(x)
        native.kernels(x).normalise(x=x, **moments._asdict(), weight=weight, bias=bias, threads=threads(), out=out)
        ctx.save_for_backward(x, *moments, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, mean, inverse, weight, bias = ctx.saved_tensors
        dx, dweight, dbias = torch.empty_like(x), per_channel(x), per_channel(x)
        native.kernels(x).normalise_backward(
            x=x,
            mean=mean,
            inverse=inverse,
            weight=weight,
            bias=bias,
            threads=threads(),
            out_grad=grad.contiguous(),
            x_grad=dx,
            weight_grad=dweight,
            bias_grad=dbias,
        )
        return {"x": dx, "weight": dweight, "bias": dbias}


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, centred: bool) -> Tensor:
        latent = latent.contiguous()
        centre = latent.flatten(1).mean(dim=1) if centred else None
        ctx.save_for_backward(latent, centre)
        return binarised(latent, centre)

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        latent, centre = ctx.saved_tensors
        # Nothing but the functions here ever sees this gradient, so that its memory may become that of the latent ones.
        return {"latent": binarised_backward(latent, centre, grad.contiguous())}


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, learnable_bias: Tensor) -> Tensor:
        x, learnable_bias = x.contiguous(), learnable_bias.contiguous()
        ctx.save_for_backward(x, learnable_bias)
        return signs_as_numbers(x, learnable_bias, True)

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, learnable_bias = ctx.saved_tensors
        return signs_backward(x, learnable_bias, True, grad.contiguous())._asdict()


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, residual: Tensor, norm: nn.Module, *learned: Tensor | None) -> Tensor:
        h, residual, *learned = _contiguous((h, residual, *learned))  # type: ignore[assignment]
        unit = Unit.of(h, residual, Moments.of(norm, h), UnitParameters(*learned))  # type: ignore[arg-type]
        ctx.save_for_backward(*unit)
        return unit.output()

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        gradients = Unit(*ctx.saved_tensors).gradients(grad.contiguous())
        return {"h": gradients.h_grad, "residual": gradients.residual_grad, "learned": gradients.parameters}


class _LinearUnit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        learnable_bias: Tensor,
        given: Tensor,
        latent: bool,
        norm: nn.Module,
        config: QuantConfig,
        *learned: Tensor | None,
    ) -> Tensor:
        given_tensors = (x, residual, learnable_bias, *learned)
        x, residual, learnable_bias, *learned = _contiguous(given_tensors)  # type: ignore[assignment]
        ctx.binary, ctx.own = config.activation_bits == 1, residual is None
        signs, weight = signs_of(x, learnable_bias, ctx.binary), Weight.of(given, latent, config.weight_bits == 1)
        h, moments = weight.times(signs, norm)
        parameters = UnitParameters(*learned)  # type: ignore[arg-type]
        unit = Unit.of(h, x if residual is None else residual, moments, parameters)
        ctx.save_for_backward(x, learnable_bias, _kept(signs), *weight, *unit)
        return unit.output()

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, learnable_bias, signs, *parts = ctx.saved_tensors
        weight, unit = _parts(parts, Weight, Unit)
        gradients = unit.gradients(grad.contiguous())
        dh, dresidual = gradients.h_grad, gradients.residual_grad
        dgiven = weight.gradient(dh, signs_as_numbers(x, learnable_bias, ctx.binary) if signs is None else signs)
        dsigns = weight.input_gradient(dh, torch.empty_like(x))
        dx, dlearnable_bias = signs_backward(x, learnable_bias, ctx.binary, dsigns, dresidual if ctx.own else None)
        return {
            "x": dx,
            "residual": None if ctx.own else dresidual,
            "learnable_bias": dlearnable_bias,
            "given": dgiven,
            "learned": gradients.parameters,
        }


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        n: Tensor,
        learnable_bias1: Tensor,
        learnable_bias2: Tensor,
        given1: Tensor,
        given2: Tensor,
        latent: bool,
        config: QuantConfig,
        norm1: nn.Module,
        norm2: nn.Module,
        *learned: Tensor | None,
    ) -> Tensor:
        given_tensors = (n, learnable_bias1, learnable_bias2, *learned)
        n, learnable_bias1, learnable_bias2, *learned = _contiguous(given_tensors)  # type: ignore[assignment]
        parameters1, parameters2 = _parts(learned, UnitParameters, UnitParameters)
        ctx.binary, binary_weight = config.activation_bits == 1, config.weight_bits == 1
        weight1, weight2 = (Weight.of(given, latent, binary_weight) for given in (given1, given2))
        signs1 = signs_of(n, learnable_bias1, ctx.binary)
        h, moments1 = weight1.times(signs1, norm1)
        hidden = Unit.of(h, n, moments1, parameters1, learnable_bias2)
        signs2, means = hidden.signs(ctx.binary)
        v, moments2 = weight2.times(signs2, norm2)
        output = Unit.of(v, means, moments2, parameters2)
        ctx.save_for_backward(learnable_bias1, _kept(signs1), _kept(signs2), *weight1, *weight2, *hidden, *output)
        return output.output()

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        learnable_bias1, signs1, signs2, *parts = ctx.saved_tensors
        weight1, weight2, hidden, output = _parts(parts, Weight, Weight, Unit, Unit)
        n = hidden.residual
        of_output = output.gradients(grad.contiguous())
        dv = of_output.h_grad
        dgiven2 = weight2.gradient(dv, hidden.signs(ctx.binary)[0] if signs2 is None else signs2)
        dsigns2 = weight2.input_gradient(dv, torch.empty_like(hidden.h))
        of_hidden = hidden.hidden_gradients(dsigns2, of_output.residual_grad, ctx.binary)
        dh = of_hidden.h_grad
        dgiven1 = weight1.gradient(dh, signs_as_numbers(n, learnable_bias1, ctx.binary) if signs1 is None else signs1)
        dsigns1 = weight1.input_gradient(dh, torch.empty_like(n))
        dn, dlearnable_bias1 = signs_backward(n, learnable_bias1, ctx.binary, dsigns1, of_hidden.residual_grad)
        return {
            "n": dn,
            "learnable_bias1": dlearnable_bias1,
            "learnable_bias2": of_hidden.learnable_bias_grad,
            "given1": dgiven1,
            "given2": dgiven2,
            "learned": (*of_hidden.parameters, *of_output.parameters),
        }


class _RPReLUSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, *branches: Tensor) -> Tensor:
        branches = tuple(_contiguous(branches))
        ctx.save_for_backward(*branches)
        ys, inputs, slopes = _thirds(branches)
        out = torch.empty_like(ys[0])
        native.kernels(out).branches(
            ys=ys, inputs=inputs, slopes=slopes, shift=shift.contiguous(), threads=threads(), out=out
        )
        return out

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        ys, inputs, slopes = _thirds(ctx.saved_tensors)
        grad = grad.contiguous()
        dys, dinputs, dslopes = (
            [torch.empty_like(y) for y in ys],
            [per_channel(y) for y in ys],
            [per_channel(y) for y in ys],
        )
        dshift = per_channel(grad)
        native.kernels(grad).branches_backward(
            ys=ys,
            inputs=inputs,
            slopes=slopes,
            threads=threads(),
            out_grad=grad,
            ys_grad=dys,
            inputs_grad=dinputs,
            slopes_grad=dslopes,
            shift_grad=dshift,
        )
        return {"shift": dshift, "branches": (*dys, *dinputs, *dslopes)}


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
