"""Layers of a training step on a CPU, fused: the same mathematics in fewer passes over memory.

What stands between two matrix products (batch norm, residual, RPReLU, LayerScale, sign) is one native pass forward and
two backward, and only what enters a product's layer is kept for backward: signs and activations are computed again.
Layers ask `applies` and otherwise compute as they are written, which is what evaluation, GPUs, several processes,
other norms and `torch.compile` take. Tensors are tokens (..., channels) of float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..bits import LANES, WORD
from . import training_kernels as native
from .batch_statistics import processes
from .training_kernels import all_at, at, channels_of, shape_of, signs_backward, signs_of

if TYPE_CHECKING:
    from .layers import Style


def applies(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` may compute its output for `x` by the functions below: nothing that they skip is looked at."""
    return (
        module.training
        and type(x) is Tensor  # what only looks like one, as in torch.export, has no memory
        and x.device.type == "cpu"
        and x.dtype in native.KERNELS
        and processes() == 1
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not _hooked_everywhere()
        and all(_plain(part, x) for part in module.modules())
    )


def _hooked_everywhere() -> bool:
    """Whether hooks of all modules are registered, which look into each."""
    every = torch.nn.modules.module
    return bool(
        every._global_forward_hooks or every._global_forward_pre_hooks
        or every._global_backward_hooks or every._global_backward_pre_hooks
    )  # fmt: skip


def _plain(part: nn.Module, x: Tensor) -> bool:
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    if hooks or isinstance(part, nn.LayerNorm):
        return False
    if isinstance(part, nn.BatchNorm1d) and not (part.training and part.affine and part.track_running_stats):
        return False
    return all(parameter.dtype == x.dtype for parameter in part.parameters(recurse=False))


def batch_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)` in training."""
    normalised: Tensor = _BatchNorm.apply(x, norm.weight, norm.bias, *_statistics(norm, x))
    return normalised


def binary_weight(latent: Tensor, centred: bool = True) -> Tensor:
    """`quantizers.binarize_weight` of latent weights (O, ...), for layers that ask of it neither more nor less."""
    centre = latent.detach().flatten(1).mean(dim=1) if centred else None
    weight: Tensor = _BinaryWeight.apply(latent, centre)
    return weight


def signs(x: Tensor, move: Tensor) -> Tensor:
    """sign(x + move): (..., C) -> the same."""
    ones: Tensor = _Signs.apply(x, move)
    return ones


def sign_linear(x: Tensor, move: Tensor, weight: Tensor, style: Style) -> Tensor:
    """sign(x + move), or x + move, times `weight` (O, K), binary or not, as `style` has it: (..., K) -> (..., O)."""
    product: Tensor = _SignLinear.apply(x, move, weight, style)
    return product


def unit(h: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module, scale: nn.Module | None = None) -> Tensor:
    """scale(activation(norm(h) + residual)), the residual (..., C) tiled to the channels of h (..., r C)."""
    layer_scale = (None, None) if scale is None else (scale.scale, scale.shift)
    activated: Tensor = _Unit.apply(
        h, residual, *_unit_parameters(norm, activation), *layer_scale, *_statistics(norm, h)
    )
    return activated


def hidden_linear(
    h: Tensor, residual: Tensor, norm: nn.Module, activation: nn.Module, move: Tensor, weight: Tensor, style: Style
) -> tuple[Tensor, Tensor]:
    """With u = activation(norm(h) + residual tiled): `sign_linear` of u, and means of r channels of u."""
    parameters = _unit_parameters(norm, activation)
    product, means = _HiddenLinear.apply(h, residual, *parameters, move, weight, *_statistics(norm, h), style)
    return product, means


def rprelu_sum(ys: Sequence[Tensor], biases: Sequence[Any], activations: Sequence[Any]) -> Tensor:
    """The sum of activation(y + bias)."""
    inputs = [bias - activation.shift_in for bias, activation in zip(biases, activations, strict=True)]
    shift = torch.stack([activation.shift_out for activation in activations]).sum(dim=0)
    total: Tensor = _RPReLUSum.apply(shift, *ys, *inputs, *(activation.slope for activation in activations))
    return total


def fits_hidden(channels: int, width: int) -> bool:
    """Whether `hidden_linear` can: its means must not cross the tiles of the residual."""
    return channels % width == 0 and width % (channels // width) == 0


def _unit_parameters(norm: Any, activation: Any) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, activation.shift_in, activation.slope, activation.shift_out


@torch.no_grad()
def _statistics(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each channel of a batch; updates the running ones of `norm`, as PyTorch's does."""
    x = x.contiguous()
    channels, rows = x.shape[-1], x.numel() // x.shape[-1]
    if rows < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    mean, variance = x.new_empty(channels), x.new_empty(channels)
    native.kernels(x).moments(*shape_of(x), at(x), at(mean), at(variance))
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), momentum)
    return mean, (variance + norm.eps).rsqrt_()


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        norm = [mean, inverse, weight.contiguous(), bias.contiguous()]
        native.kernels(x).normalise(*shape_of(x), at(x), all_at(norm), at(out))
        ctx.save_for_backward(x, *norm)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *norm = ctx.saved_tensors
        grad, dx = grad.contiguous(), torch.empty_like(x)
        weight, bias = channels_of(x, 2)
        kernels = native.kernels(x)
        kernels.normalise_backward(*shape_of(x), at(x), all_at(norm), at(grad), at(dx), at(weight), at(bias))
        return dx, weight, bias, None, None


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, centre: Tensor | None) -> Tensor:
        latent = latent.contiguous()
        ctx.save_for_backward(latent, centre)
        out = torch.empty_like(latent)
        native.kernels(latent).binarise(*shape_of(latent.flatten(1)), at(latent), at(centre), at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        latent, centre = ctx.saved_tensors
        # Nothing but the functions here ever sees this gradient, so that its memory may become that of the latent ones.
        grad = grad.contiguous()
        kernels, memory = native.kernels(latent), at(grad)
        kernels.binarise_backward(*shape_of(latent.flatten(1)), at(latent), at(centre), memory, memory)
        return grad, None


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor) -> Tensor:
        x, move = x.contiguous(), move.contiguous()
        ctx.save_for_backward(x, move)
        return signs_of(x, move, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, move = ctx.saved_tensors
        return signs_backward(x, move, True, grad.contiguous())


class _SignLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor, weight: Tensor, style: Style) -> Tensor:
        x, move = x.contiguous(), move.contiguous()
        ctx.save_for_backward(x, move, weight)
        ctx.binary, ctx.binary_weight = style.activation_bits == 1, style.weight_bits == 1
        if not _products_of_bits(style, weight):
            return signs_of(x, move, ctx.binary) @ weight.T
        bits = _bits_for(x)
        native.kernels(x).bits(*shape_of(x), at(x), at(move), at(bits))
        return _binary_linear(bits, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, move, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        weight_grad = native.weight_gradient(rows, x, move, ctx.binary)
        dx, dmove = signs_backward(x, move, ctx.binary, native.input_gradient(rows, weight, ctx.binary_weight))
        return dx, dmove, weight_grad, None


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, residual: Tensor, *rest: Tensor | None) -> Tensor:
        ctx.scaled = rest[5] is not None
        state = _UnitState(h, residual, rest[:5], rest[5:7], None, rest[7:], True)
        ctx.save_for_backward(*state.tensors)
        out = torch.empty_like(state.h)
        state.run(out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        state = _UnitState.of(ctx.saved_tensors, ctx.scaled, False, True)
        dh, dresidual, sums = state.gradients(grad.contiguous(), None, None)
        return dh, dresidual, *sums[:7], None, None


class _HiddenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        *parameters, move, weight, mean, inverse, style = rest
        ctx.binary, ctx.binary_weight = style.activation_bits == 1, style.weight_bits == 1
        state = _UnitState(h, residual, parameters, (None, None), move, (mean, inverse), ctx.binary)
        means = torch.empty_like(state.residual)
        if _products_of_bits(style, weight):
            bits = _bits_for(state.h)
            state.run(bits=bits, means=means)
            ctx.save_for_backward(weight, bits, *state.tensors)
            return _binary_linear(bits, state.h, weight), means
        ctx.save_for_backward(weight, None, *state.tensors)
        signs = torch.empty_like(state.h)
        state.run(signs=signs, means=means)
        return signs @ weight.T, means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, means_grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bits, *tensors = ctx.saved_tensors
        state = _UnitState.of(tensors, False, True, ctx.binary)
        rows, channels = grad.reshape(-1, grad.shape[-1]), state.h.shape[-1]
        signs = torch.empty_like(state.h)
        if bits is None:
            state.run(signs=signs, means=torch.empty_like(state.residual))
            weight_grad = rows.T @ signs.view(-1, channels)
        else:
            weight_grad = native.weight_gradient_of_bits(rows, bits, state.h)
        native.input_gradient(rows, weight, ctx.binary_weight, out=signs.view(-1, channels))
        dh, dresidual, sums = state.gradients(None, signs, means_grad.contiguous())
        return dh, dresidual, *sums[:5], sums[7], weight_grad, None, None, None


class _UnitState:
    """The operands of a unit, and the native calls on them."""

    def __init__(
        self,
        h: Tensor,
        residual: Tensor,
        parameters: Sequence[Any],
        scale: Sequence[Any],
        move: Any,
        statistics: Sequence[Any],
        binary: bool,
    ) -> None:
        self.h, self.residual, self.binary = h.contiguous(), residual.contiguous(), binary
        weight, bias, *rprelu = (parameter.contiguous() for parameter in parameters)
        self.norm, self.rprelu = [*statistics, weight, bias], rprelu
        self.scale = [s if s is None else s.contiguous() for s in scale]
        self.move = move if move is None else move.contiguous()

    @property
    def tensors(self) -> list[Tensor]:
        """What `of` makes the same state from."""
        optional = [t for t in (*self.scale, self.move) if t is not None]
        return [self.h, self.residual, *self.norm, *self.rprelu, *optional]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], scaled: bool, moved: bool, binary: bool) -> _UnitState:
        h, residual, mean, inverse, weight, bias, *rest = tensors
        scale = rest[3:5] if scaled else (None, None)
        return cls(h, residual, (weight, bias, *rest[:3]), scale, rest[-1] if moved else None, (mean, inverse), binary)

    def _operands(self) -> tuple[Any, ...]:
        return (
            *shape_of(self.h), at(self.h), at(self.residual), self.residual.shape[-1], all_at(self.norm),
            all_at(self.rprelu), all_at(self.scale), at(self.move), self.binary,
        )  # fmt: skip

    def run(
        self,
        *,
        out: Tensor | None = None,
        signs: Tensor | None = None,
        bits: Tensor | None = None,
        means: Tensor | None = None,
    ) -> None:
        """Fill `out`, or `means` and one of `signs` and `bits`."""
        native.kernels(self.h).unit(*self._operands(), at(out), at(signs), at(bits), at(means))

    def gradients(
        self, out: Tensor | None, signs: Tensor | None, means: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Of h, of the residual, and of: norm's weight and bias, shift_in, slope, shift_out, scale, its shift, move.

        The memory of `signs` becomes the gradient of h.
        """
        dh = torch.empty_like(self.h) if signs is None else signs
        dresidual = torch.empty_like(self.residual)
        plain, scale, move = channels_of(self.h, 5), [None, None], None
        if self.scale[0] is not None:
            scale = channels_of(self.h, 2)  # type: ignore[assignment]
        if self.move is not None:
            (move,) = channels_of(self.h, 1)
        sums: list[Tensor | None] = [*plain, *scale, move]
        given = at(out), at(signs), at(means)
        native.kernels(self.h).unit_backward(*self._operands(), *given, at(dh), at(dresidual), all_at(sums))
        return dh, dresidual, sums


class _RPReLUSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, *operands: Tensor) -> Tensor:
        operands = tuple(operand.contiguous() for operand in operands)
        ctx.save_for_backward(*operands)
        ys, inputs, slopes = _thirds(operands)
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
            *shape_of(grad), all_at(ys), all_at(inputs), all_at(slopes), at(grad), all_at(dys), all_at(dinputs),
            all_at(dslopes), at(dshift),
        )  # fmt: skip
        return dshift, *dys, *dinputs, *dslopes


def _products_of_bits(style: Style, weight: Tensor) -> bool:
    """Whether the engine can multiply: signs with binary weights, of whole words and tiles."""
    whole = weight.shape[0] % LANES == 0 and weight.shape[1] % WORD == 0
    return style.activation_bits == 1 and style.weight_bits == 1 and whole


def _bits_for(x: Tensor) -> Tensor:
    return torch.empty(x.numel() // WORD, dtype=torch.int32, device=x.device)


def _binary_linear(bits: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Products of the signs in `bits`, of the shape of x, with binary weights (O, K)."""
    weight, out = weight.contiguous(), x.new_empty(*x.shape[:-1], weight.shape[0])
    native.kernels(x).binary_linear(*shape_of(x), at(bits), at(weight), weight.shape[0], at(out))
    return out


def _thirds(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 3
    return tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
