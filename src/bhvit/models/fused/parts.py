"""What the nodes of `fused` are put together from: operands, and the native calls on them, forward and backward.

No gradient passes through anything here by itself. Parts are tuples of tensors, so that nodes save them as they are.
Signs are either words of 32 bits (..., C / 32) or numbers (..., C).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...bits import LANES, WORD
from .kernels import kernels, per_channel, threads


def signs_of(x: Tensor, learnable_bias: Tensor, binary: bool) -> Tensor:
    """Signs of x + learnable_bias (..., C), as words if they can be; x + learnable_bias itself if not `binary`."""
    if not binary or x.shape[-1] % WORD:
        return signs_as_numbers(x, learnable_bias, binary)
    words = _words(x)
    kernels(x).pack_bits(x=x, learnable_bias=learnable_bias, threads=threads(), bits=words)
    return words


def signs_as_numbers(x: Tensor, learnable_bias: Tensor, binary: bool) -> Tensor:
    """The same as numbers (..., C)."""
    out = torch.empty_like(x)
    kernels(x).signs(x=x, learnable_bias=learnable_bias, binary=binary, threads=threads(), out=out)
    return out


def are_words(signs: Tensor) -> bool:
    """Whether signs are words."""
    return signs.dtype == torch.int32


class SignGradients(NamedTuple):
    """Gradients of the operands of signs: x (..., C) and the learnable bias `learnable_bias` (C,)."""

    x: Tensor
    learnable_bias: Tensor


def signs_backward(
    x: Tensor, learnable_bias: Tensor, binary: bool, grad: Tensor, add_to: Tensor | None = None
) -> SignGradients:
    """Gradients for that of the signs; that of x is added to `add_to`, if given."""
    found = SignGradients(torch.empty_like(x) if add_to is None else add_to, per_channel(x))
    kernels(x).signs_backward(
        x=x,
        learnable_bias=learnable_bias,
        binary=binary,
        threads=threads(),
        out_grad=grad,
        add=add_to is not None,
        x_grad=found.x,
        learnable_bias_grad=found.learnable_bias,
    )
    return found


class Moments(NamedTuple):
    """Mean and 1 / deviation of each channel of a batch."""

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, norm: Any, x: Tensor) -> Moments:
        """Those of x (..., C), contiguous, which `norm` takes; its running statistics follow them.

        Raises ValueError for one row.
        """
        moments, tracking = cls.unfilled(norm, x, x.shape[-1])
        kernels(x).statistics(x=x, threads=threads(), **moments._asdict(), **tracking._asdict())
        return moments

    @classmethod
    def unfilled(cls, norm: Any, like: Tensor, channels: int) -> tuple[Moments, Tracking]:
        """Memory for those of the rows of `like`, and what else a kernel needs. Raises ValueError for one row."""
        if (rows := like.numel() // like.shape[-1]) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {rows} of {channels} channels")
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        moments = cls(*(norm.weight.new_empty(channels) for _ in range(2)))
        return moments, Tracking(norm.eps, momentum, norm.running_mean, norm.running_var)


class Tracking(NamedTuple):
    """How a norm's running statistics follow those of a batch."""

    epsilon: float
    momentum: float
    running_mean: Tensor
    running_variance: Tensor


class Weight(NamedTuple):
    """The weight (O, K) of a linear layer: words (O, K / 32) and a scale for each output if it is binary, else numbers.

    `latent` is what it was binarised from here, if it was, and `centre` the mean of each row of that.
    """

    words: Tensor | None
    scale: Tensor | None
    numbers: Tensor | None
    latent: Tensor | None
    centre: Tensor | None

    @classmethod
    def of(cls, given: Tensor, latent: bool, binary: bool) -> Weight:
        """From latent weights, or from those that multiply, of each row the same magnitude if `binary`."""
        given = given.contiguous()
        centre = given.detach().mean(dim=1) if latent else None
        source = given if latent else None
        if not binary or given.shape[1] % WORD:
            return cls(None, None, binarised(given, centre) if latent else given, source, centre)
        words, scale = _words(given), given.new_empty(given.shape[0])
        kernels(given).weight_bits(latent=given, centre=centre, threads=threads(), bits=words, scale=scale)
        return cls(words, scale, None, source, centre)

    def times(self, signs: Tensor, norm: Any) -> tuple[Tensor, Moments]:
        """Products (..., O) with signs (..., K), and what `norm` takes of them."""
        if self.words is None or self.scale is None or not are_words(signs) or len(self.scale) % LANES:
            product = self._as_numbers(signs) @ self.as_numbers().T
            return product, Moments.of(norm, product)
        outputs = len(self.scale)
        moments, tracking = Moments.unfilled(norm, signs, outputs)
        product = self.scale.new_empty(*signs.shape[:-1], outputs)
        kernels(product).binary_linear(
            bits=signs,
            weights=self.words,
            scale=self.scale,
            threads=threads(),
            out=product,
            **moments._asdict(),
            **tracking._asdict(),
        )
        return product, moments

    def input_gradient(self, grad: Tensor, out: Tensor) -> Tensor:
        """grad (..., O) times the weight, into `out` (..., K)."""
        rows, to = grad.reshape(-1, grad.shape[-1]), out.view(-1, out.shape[-1])
        if self.words is not None and multiplies_signs(grad):
            sign_products(rows, False, self.scale, self.words, to)
        else:
            torch.mm(rows, self.as_numbers(), out=to)
        return out

    def gradient(self, grad: Tensor, signs: Tensor) -> Tensor:
        """Of what the weight was made from, for the gradient (..., O) of its products with `signs`."""
        rows = grad.reshape(-1, grad.shape[-1])
        if are_words(signs) and multiplies_signs(grad):
            own = grad.new_empty(rows.shape[1], signs.shape[-1] * WORD)
            sign_products(rows, True, None, signs, own)
        else:
            numbers = self._as_numbers(signs)
            own = rows.T @ numbers.view(-1, numbers.shape[-1])
        return own if self.latent is None else binarised_backward(self.latent, self.centre, own)

    def as_numbers(self) -> Tensor:
        """(O, K)."""
        if self.numbers is not None:
            return self.numbers
        assert self.words is not None
        assert self.scale is not None
        return unpacked(self.words, self.scale).mul_(self.scale.unsqueeze(1))

    def _as_numbers(self, signs: Tensor) -> Tensor:
        like = self.scale if self.numbers is None else self.numbers
        assert like is not None
        return unpacked(signs, like) if are_words(signs) else signs


def binarised(latent: Tensor, centre: Tensor | None) -> Tensor:
    """Latent weights (O, ...), contiguous, less the `centre` (O,), as signs times the mean magnitude of each row."""
    out = torch.empty_like(latent)
    kernels(latent).binarise(latent=latent, centre=centre, threads=threads(), out=out)
    return out


def binarised_backward(latent: Tensor, centre: Tensor | None, grad: Tensor) -> Tensor:
    """The gradient of latent weights for that of binary ones, in whose memory it is."""
    kernels(latent).binarise_backward(latent=latent, centre=centre, threads=threads(), out_grad=grad, latent_grad=grad)
    return grad


class UnitParameters(NamedTuple):
    """What a unit learns: of its norm, its activation and, if it has one, its LayerScale."""

    weight: Tensor
    bias: Tensor
    shift_in: Tensor
    slope: Tensor
    shift_out: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


class UnitGradients(NamedTuple):
    """Gradients of the tensors of a `Unit`, for that of its output, or those of its signs and their means."""

    h_grad: Tensor
    residual_grad: Tensor
    weight_grad: Tensor
    bias_grad: Tensor
    shift_in_grad: Tensor
    slope_grad: Tensor
    shift_out_grad: Tensor
    scale_grad: Tensor | None
    shift_grad: Tensor | None
    learnable_bias_grad: Tensor | None

    @property
    def parameters(self) -> UnitParameters:
        """Those of what the unit learns."""
        return UnitParameters(
            self.weight_grad,
            self.bias_grad,
            self.shift_in_grad,
            self.slope_grad,
            self.shift_out_grad,
            self.scale_grad,
            self.shift_grad,
        )


class Unit(NamedTuple):
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C); then scale * it +
    shift, if there are such; with `learnable_bias`, signs of their sum, and means of r channels of it, instead."""

    h: Tensor
    residual: Tensor
    mean: Tensor
    inverse: Tensor
    weight: Tensor
    bias: Tensor
    shift_in: Tensor
    slope: Tensor
    shift_out: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    learnable_bias: Tensor | None = None

    @classmethod
    def of(
        cls,
        h: Tensor,
        residual: Tensor,
        moments: Moments,
        learned: UnitParameters,
        learnable_bias: Tensor | None = None,
    ) -> Unit:
        """The unit of h and a residual, with the moments of h."""
        return cls(h, residual, *moments, **learned._asdict(), learnable_bias=learnable_bias)

    def output(self) -> Tensor:
        """Of a unit without `learnable_bias`: as h."""
        out = torch.empty_like(self.h)
        kernels(self.h).unit(**self._asdict(), binary=True, threads=threads(), out=out)
        return out

    def signs(self, binary: bool) -> tuple[Tensor, Tensor]:
        """Signs, and means (..., C), of a unit with `learnable_bias`."""
        means, words = torch.empty_like(self.residual), binary and self.residual.shape[-1] % WORD == 0
        signs = _words(self.h) if words else torch.empty_like(self.h)
        kernels(self.h).unit(**self._asdict(), binary=binary, threads=threads(), signs=signs, means=means)
        return signs, means

    def gradients(self, out: Tensor) -> UnitGradients:
        """For the gradient of `output`."""
        return self._gradients(torch.empty_like(self.h), out, None, None, True)

    def hidden_gradients(self, signs: Tensor, means: Tensor, binary: bool) -> UnitGradients:
        """For those of `signs`, whose memory becomes the gradient of h."""
        return self._gradients(signs, None, signs, means, binary)

    def _gradients(
        self, h_grad: Tensor, out: Tensor | None, signs: Tensor | None, means: Tensor | None, binary: bool
    ) -> UnitGradients:
        def of(operand: Tensor | None) -> Tensor | None:
            return None if operand is None else per_channel(self.h)

        found = UnitGradients(
            h_grad=h_grad,
            residual_grad=torch.empty_like(self.residual),
            weight_grad=per_channel(self.h),
            bias_grad=per_channel(self.h),
            shift_in_grad=per_channel(self.h),
            slope_grad=per_channel(self.h),
            shift_out_grad=per_channel(self.h),
            scale_grad=of(self.scale),
            shift_grad=of(self.shift),
            learnable_bias_grad=of(self.learnable_bias),
        )
        kernels(self.h).unit_backward(
            **self._asdict(),
            binary=binary,
            threads=threads(),
            out_grad=out,
            signs_grad=signs,
            means_grad=means,
            **found._asdict(),
        )
        return found


def unpacked(words: Tensor, like: Tensor) -> Tensor:
    """Signs (..., C / 32) as numbers (..., C) of the type of `like`."""
    out = like.new_empty(*words.shape[:-1], words.shape[-1] * WORD)
    kernels(out).unpack_bits(bits=words, threads=threads(), out=out)
    return out


def multiplies_signs(rows: Tensor) -> bool:
    """Whether `sign_products` can."""
    return kernels(rows).multiplies_signs


def sign_products(rows: Tensor, transposed: bool, scale: Tensor | None, words: Tensor, out: Tensor) -> None:
    """rows (R, I), or (I, R) if `transposed`, times `scale` (I,), if given, times signs (I, C / 32): out (R, C)."""
    inputs, count = words.shape[:-1].numel(), words.shape[-1] * WORD
    columns = words.new_empty((inputs + WORD - 1) // WORD, count)
    kernel = kernels(rows)
    kernel.bit_columns(bits=words, threads=threads(), columns=columns)
    kernel.sign_products(
        a=rows.contiguous(), transposed=transposed, scale=scale, columns=columns, threads=threads(), out=out
    )


def _words(x: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], x.shape[-1] // WORD, dtype=torch.int32, device=x.device)
