"""What the nodes of `fused` are put together from: operands, and the native calls on them, forward and backward.

No gradient passes through anything here by itself. Parts are tuples of tensors, so that nodes save them as they are.
Signs are either words of 32 bits (..., C / 32) or numbers (..., C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...bits import LANES, WORD
from .kernels import all_at, at, channels_of, check_channels, check_like, kernels, shape_of


def signs_of(x: Tensor, move: Tensor, binary: bool) -> Tensor:
    """Signs of x + move (..., C), as words if they can be; x + move itself if not `binary`."""
    if not binary or x.shape[-1] % WORD:
        return signs_as_numbers(x, move, binary)
    check_channels(x, move)
    words = _words(x)
    kernels(x).bits(*shape_of(x), at(x), at(move), at(words))
    return words


def signs_as_numbers(x: Tensor, move: Tensor, binary: bool) -> Tensor:
    """The same as numbers (..., C)."""
    check_channels(x, move)
    out = torch.empty_like(x)
    kernels(x).signs(*shape_of(x), at(x), at(move), binary, at(out))
    return out


def are_words(signs: Tensor) -> bool:
    """Whether signs are words."""
    return signs.dtype == torch.int32


def signs_backward(
    x: Tensor, move: Tensor, binary: bool, grad: Tensor, add_to: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of x (..., C) and of the move (C,) for that of the signs; that of x is added to `add_to`, if given."""
    check_channels(x, move)
    check_like(x, grad)
    dx, (dmove,) = torch.empty_like(x) if add_to is None else add_to, channels_of(x, 1)
    kernels(x).signs_backward(*shape_of(x), at(x), at(move), binary, at(grad), add_to is not None, at(dx), at(dmove))
    return dx, dmove


class Moments(NamedTuple):
    """Mean and 1 / deviation of each channel of a batch."""

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, norm: Any, x: Tensor) -> Moments:
        """Those of x (..., C), contiguous, which `norm` takes; its running statistics follow them.

        Raises ValueError for one row.
        """
        moments, operands = cls.unfilled(norm, x, x.shape[-1])
        kernels(x).statistics(*shape_of(x), at(x), *operands)
        return moments

    @classmethod
    def unfilled(cls, norm: Any, like: Tensor, channels: int) -> tuple[Moments, tuple[Any, ...]]:
        """Memory for those of the rows of `like`, and what a kernel fills it by. Raises ValueError for one row."""
        if (rows := like.numel() // like.shape[-1]) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {rows} of {channels} channels")
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        moments = cls(*(norm.weight.new_empty(channels) for _ in range(2)))
        return moments, ((norm.eps, momentum), all_at((*moments, norm.running_mean, norm.running_var)))


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
        kernels(given).weight_bits(*shape_of(given), at(given), at(centre), at(words), at(scale))
        return cls(words, scale, None, source, centre)

    def times(self, signs: Tensor, norm: Any) -> tuple[Tensor, Moments]:
        """Products (..., O) with signs (..., K), and what `norm` takes of them."""
        if self.words is None or self.scale is None or not are_words(signs) or len(self.scale) % LANES:
            product = self._as_numbers(signs) @ self.as_numbers().T
            return product, Moments.of(norm, product)
        outputs = len(self.scale)
        moments, operands = Moments.unfilled(norm, signs, outputs)
        product = self.scale.new_empty(*signs.shape[:-1], outputs)
        rows, words, threads = shape_of(signs)
        operands = (at(signs), at(self.words), at(self.scale), outputs, *operands, at(product))
        kernels(product).binary_linear(rows, words * WORD, threads, *operands)
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
    kernels(latent).binarise(*shape_of(latent.view(len(latent), -1)), at(latent), at(centre), at(out))
    return out


def binarised_backward(latent: Tensor, centre: Tensor | None, grad: Tensor) -> Tensor:
    """The gradient of latent weights for that of binary ones, in whose memory it is."""
    memory = at(grad)
    shape = shape_of(latent.view(len(latent), -1))
    kernels(latent).binarise_backward(*shape, at(latent), at(centre), memory, memory)
    return grad


class Unit(NamedTuple):
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C); then scale * it +
    shift, if there are such; with `move`, signs of it + move, and means of r channels of it, instead."""

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
    move: Tensor | None = None

    def output(self) -> Tensor:
        """Of a unit without `move`: as h."""
        out = torch.empty_like(self.h)
        self._run(True, out=out)
        return out

    def signs(self, binary: bool) -> tuple[Tensor, Tensor]:
        """Signs, and means (..., C), of a unit with `move`."""
        means, words = torch.empty_like(self.residual), binary and self.residual.shape[-1] % WORD == 0
        signs = _words(self.h) if words else torch.empty_like(self.h)
        self._run(binary, means=means, **{"words" if words else "numbers": signs})
        return signs, means

    def _operands(self, binary: bool) -> tuple[Any, ...]:
        check_channels(self.h, *self[2:])
        rows, width = self.h.shape[:-1], self.residual.shape[-1]
        if self.residual.shape[:-1] != rows or self.h.shape[-1] % width:
            given, wanted = tuple(self.residual.shape), tuple(self.h.shape)
            raise ValueError(f"a residual of shape {given} cannot be tiled to {wanted}")
        addresses = all_at(self)
        norm, rprelu, scale = addresses[2:6], addresses[6:9], addresses[9:11]
        return *shape_of(self.h), *addresses[:2], self.residual.shape[-1], norm, rprelu, scale, addresses[11], binary

    def _run(
        self,
        binary: bool,
        *,
        out: Tensor | None = None,
        numbers: Tensor | None = None,
        words: Tensor | None = None,
        means: Tensor | None = None,
    ) -> None:
        kernels(self.h).unit(*self._operands(binary), at(out), at(numbers), at(words), at(means))

    def gradients(
        self, out: Tensor | None = None, signs: Tensor | None = None, means: Tensor | None = None, binary: bool = True
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Of h, of the residual, and of the tensors that follow the moments, for that of `output` or those of `signs`.

        The memory of `signs` becomes the gradient of h.
        """
        dh = torch.empty_like(self.h) if signs is None else signs
        dresidual = torch.empty_like(self.residual)
        sums = _some_channels(self.h, self[4:])
        given = at(out), at(signs), at(means)
        kernels(self.h).unit_backward(*self._operands(binary), *given, at(dh), at(dresidual), all_at(sums))
        return dh, dresidual, sums


def unpacked(words: Tensor, like: Tensor) -> Tensor:
    """Signs (..., C / 32) as numbers (..., C) of the type of `like`."""
    rows, count, threads = shape_of(words)
    out = like.new_empty(*words.shape[:-1], count * WORD)
    kernels(out).numbers(rows, count * WORD, threads, at(words), at(out))
    return out


def multiplies_signs(rows: Tensor) -> bool:
    """Whether `sign_products` can."""
    return bool(kernels(rows).multiplies_signs)


def sign_products(rows: Tensor, transposed: bool, scale: Tensor | None, words: Tensor, out: Tensor) -> None:
    """rows (R, I), or (I, R) if `transposed`, times `scale` (I,), if given, times signs (I, C / 32): out (R, C)."""
    rows, (inputs, count, threads) = rows.contiguous(), shape_of(words)
    columns = words.new_empty((inputs + WORD - 1) // WORD, count * WORD)
    kernels(rows).bit_columns(inputs, count * WORD, threads, at(words), at(columns))
    kernels(rows).sign_products(*shape_of(out), at(rows), transposed, inputs, at(scale), at(columns), at(out))


def _words(x: Tensor) -> Tensor:
    return torch.empty(*x.shape[:-1], x.shape[-1] // WORD, dtype=torch.int32, device=x.device)


def _some_channels(like: Tensor, wanted: Sequence[Tensor | None]) -> list[Tensor | None]:
    found = iter(channels_of(like, sum(w is not None for w in wanted)))
    return [None if w is None else next(found) for w in wanted]
