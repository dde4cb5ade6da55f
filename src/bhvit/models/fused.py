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
from ..ops import TAPS
from ..spec import DILATIONS, MIXER_GROUPS
from .batch_statistics import processes

if TYPE_CHECKING:
    from .layers import Style

_KERNELS: dict[torch.dtype, Any] = {}
try:
    from .._training import float32, float64

    _KERNELS = {torch.float32: float32, torch.float64: float64}
except ImportError:  # built for another machine, or not at all: layers compute as they are written
    pass

_OFFSETS = [step for tap in TAPS for step in tap]


def applies(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` may compute its output for `x` by the functions below: nothing that they skip is looked at."""
    return (
        module.training
        and x.device.type == "cpu"
        and x.dtype in _KERNELS
        and processes() == 1
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(_plain(part, x) for part in module.modules())
    )


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


def grouped_convs(n: Tensor, move: Tensor, weights: Sequence[Tensor], binary: bool) -> tuple[Tensor, ...]:
    """3x3 convolutions of sign(n + move) (B, H, W, C) in groups, one for each dilation, without bias."""
    convs: tuple[Tensor, ...] = _GroupedConvs.apply(n, move, binary, *weights)
    return convs


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of the tokens at `ops.TAPS` from each of n (B, H, W, C)."""
    total: Tensor = _Cross.apply(base, n, taps, shift, cyclic)
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
    _kernels(x).moments(*_shape(x), _at(x), _at(mean), _at(variance))
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
        _kernels(x).normalise(*_shape(x), _at(x), _all(norm), _at(out))
        ctx.save_for_backward(x, *norm)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *norm = ctx.saved_tensors
        grad, dx = grad.contiguous(), torch.empty_like(x)
        weight, bias = _channels(x, 2)
        kernels = _kernels(x)
        kernels.normalise_backward(*_shape(x), _at(x), _all(norm), _at(grad), _at(dx), _at(weight), _at(bias))
        return dx, weight, bias, None, None


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, centre: Tensor | None) -> Tensor:
        latent = latent.contiguous()
        ctx.save_for_backward(latent, centre)
        out = torch.empty_like(latent)
        _kernels(latent).binarise(*_shape(latent.flatten(1)), _at(latent), _at(centre), _at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        latent, centre = ctx.saved_tensors
        grad, dlatent = grad.contiguous(), torch.empty_like(latent)
        kernels = _kernels(latent)
        kernels.binarise_backward(*_shape(latent.flatten(1)), _at(latent), _at(centre), _at(grad), _at(dlatent))
        return dlatent, None


class _Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor) -> Tensor:
        x, move = x.contiguous(), move.contiguous()
        ctx.save_for_backward(x, move)
        return _signs(x, move, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, move = ctx.saved_tensors
        return _signs_backward(x, move, True, grad.contiguous())


class _SignLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor, weight: Tensor, style: Style) -> Tensor:
        x, move = x.contiguous(), move.contiguous()
        ctx.save_for_backward(x, move, weight)
        ctx.binary = style.activation_bits == 1
        if not _products_of_bits(style, weight):
            return _signs(x, move, ctx.binary) @ weight.T
        bits = _bits_for(x)
        _kernels(x).bits(*_shape(x), _at(x), _at(move), _at(bits))
        return _binary_linear(bits, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, move, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        weight_grad = rows.T @ _signs(x, move, ctx.binary).view(-1, x.shape[-1])
        dx, dmove = _signs_backward(x, move, ctx.binary, rows @ weight)
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
        ctx.binary = style.activation_bits == 1
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
        else:
            _kernels(signs).numbers(*_shape(signs), _at(bits), _at(signs))
        weight_grad = rows.T @ signs.view(-1, channels)
        torch.mm(rows, weight, out=signs.view(-1, channels))
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
            *_shape(self.h), _at(self.h), _at(self.residual), self.residual.shape[-1], _all(self.norm),
            _all(self.rprelu), _all(self.scale), _at(self.move), self.binary,
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
        _kernels(self.h).unit(*self._operands(), _at(out), _at(signs), _at(bits), _at(means))

    def gradients(
        self, out: Tensor | None, signs: Tensor | None, means: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Of h, of the residual, and of: norm's weight and bias, shift_in, slope, shift_out, scale, its shift, move.

        The memory of `signs` becomes the gradient of h.
        """
        dh = torch.empty_like(self.h) if signs is None else signs
        dresidual = torch.empty_like(self.residual)
        plain, scale, move = _channels(self.h, 5), [None, None], None
        if self.scale[0] is not None:
            scale = _channels(self.h, 2)  # type: ignore[assignment]
        if self.move is not None:
            (move,) = _channels(self.h, 1)
        sums: list[Tensor | None] = [*plain, *scale, move]
        given = _at(out), _at(signs), _at(means)
        _kernels(self.h).unit_backward(*self._operands(), *given, _at(dh), _at(dresidual), _all(sums))
        return dh, dresidual, sums


class _RPReLUSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, *operands: Tensor) -> Tensor:
        operands = tuple(operand.contiguous() for operand in operands)
        ctx.save_for_backward(*operands)
        ys, inputs, slopes = _thirds(operands)
        out = torch.empty_like(ys[0])
        _kernels(out).branches(*_shape(out), _all(ys), _all(inputs), _all(slopes), _at(shift), _at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ys, inputs, slopes = _thirds(ctx.saved_tensors)
        grad = grad.contiguous()
        dys = [torch.empty_like(y) for y in ys]
        dinputs, dslopes, (dshift,) = _channels(grad, len(ys)), _channels(grad, len(ys)), _channels(grad, 1)
        _kernels(grad).branches_backward(
            *_shape(grad), _all(ys), _all(inputs), _all(slopes), _at(grad), _all(dys), _all(dinputs), _all(dslopes),
            _at(dshift),
        )  # fmt: skip
        return dshift, *dys, *dinputs, *dslopes


class _GroupedConvs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, n: Tensor, move: Tensor, binary: bool, *weights: Tensor) -> tuple[Tensor, ...]:
        n, move = n.contiguous(), move.contiguous()
        ctx.save_for_backward(n, move, *weights)
        ctx.binary = binary
        signs = _signs(n, move, binary)
        outs = []
        for dilation, weight in zip(DILATIONS, weights, strict=True):
            out = torch.empty_like(n)
            taps = _grouped(weight).permute(0, 3, 2, 1).contiguous()
            _kernels(n).conv(*_grid(n), MIXER_GROUPS, dilation, False, _at(signs), _at(taps), _at(out))
            outs.append(out)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, move, *weights = ctx.saved_tensors
        signs, dsigns, kernels = _signs(n, move, ctx.binary), torch.empty_like(n), _kernels(n)
        dweights = []
        for index, (dilation, weight, grad) in enumerate(zip(DILATIONS, weights, grads, strict=True)):
            grad = grad.contiguous()
            # What a tap brings from one side its gradient takes back to the other.
            taps = _grouped(weight).flip(3).permute(0, 3, 1, 2).contiguous()
            kernels.conv(*_grid(n), MIXER_GROUPS, dilation, index > 0, _at(grad), _at(taps), _at(dsigns))
            kernels.conv_weights(*_grid(n), MIXER_GROUPS, dilation, _at(signs), _at(grad), _at(taps))
            dweights.append(taps.permute(0, 3, 2, 1).reshape(weight.shape))
        dn, dmove = _signs_backward(n, move, ctx.binary, dsigns)
        return dn, dmove, None, *dweights


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
        base, n, taps = base.contiguous(), n.contiguous(), taps.contiguous()
        ctx.save_for_backward(n, taps)
        ctx.cyclic = cyclic
        out = torch.empty_like(base)
        _kernels(n).cross(*_grid(n), _OFFSETS, cyclic, _at(n), _at(taps), _at(shift), _at(base), _at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n, taps = ctx.saved_tensors
        grad, dn, dtaps, (dshift,) = grad.contiguous(), torch.empty_like(n), torch.empty_like(taps), _channels(n, 1)
        _kernels(n).cross_backward(
            *_grid(n), _OFFSETS, ctx.cyclic, _at(n), _at(taps), _at(grad), _at(dn), _at(dtaps), _at(dshift)
        )
        return grad, dn, dtaps, dshift, None


def _signs(x: Tensor, move: Tensor, binary: bool) -> Tensor:
    out = torch.empty_like(x)
    _kernels(x).signs(*_shape(x), _at(x), _at(move), binary, _at(out))
    return out


def _products_of_bits(style: Style, weight: Tensor) -> bool:
    """Whether the engine can multiply: signs with binary weights, of whole words and tiles."""
    whole = weight.shape[0] % LANES == 0 and weight.shape[1] % WORD == 0
    return style.activation_bits == 1 and style.weight_bits == 1 and whole


def _bits_for(x: Tensor) -> Tensor:
    return torch.empty(x.numel() // WORD, dtype=torch.int32)


def _binary_linear(bits: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Products of the signs in `bits`, of the shape of x, with binary weights (O, K)."""
    weight, out = weight.contiguous(), x.new_empty(*x.shape[:-1], weight.shape[0])
    _kernels(x).binary_linear(*_shape(x), _at(bits), _at(weight), weight.shape[0], _at(out))
    return out


def _signs_backward(x: Tensor, move: Tensor, binary: bool, grad: Tensor) -> tuple[Tensor, Tensor]:
    dx, (dmove,) = torch.empty_like(x), _channels(x, 1)
    _kernels(x).signs_backward(*_shape(x), _at(x), _at(move), binary, _at(grad), _at(dx), _at(dmove))
    return dx, dmove


def _grouped(weight: Tensor) -> Tensor:
    """(C, C / groups, 3, 3) -> (groups, outputs, inputs, 9)."""
    return weight.view(MIXER_GROUPS, -1, weight.shape[1], 9)


def _thirds(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    count = len(tensors) // 3
    return tensors[:count], tensors[count : 2 * count], tensors[2 * count :]


def _channels(like: Tensor, count: int) -> list[Tensor]:
    return [like.new_empty(like.shape[-1]) for _ in range(count)]


def _kernels(x: Tensor) -> Any:
    return _KERNELS[x.dtype]


def _shape(x: Tensor) -> tuple[int, int, int]:
    return x.numel() // x.shape[-1], x.shape[-1], torch.get_num_threads()


def _grid(x: Tensor) -> tuple[tuple[int, ...], int]:
    return tuple(x.shape), torch.get_num_threads()


def _at(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _all(tensors: Sequence[Tensor | None]) -> list[int]:
    return [_at(tensor) for tensor in tensors]
