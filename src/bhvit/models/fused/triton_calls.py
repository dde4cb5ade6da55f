"""Calls of the Triton kernels: shapes, blocks and programs, and the memory that they write.

Tensors are tokens (..., channels), on a GPU or, under Triton's interpreter, on a CPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch_statistics import gathered, mean_of_sums, processes

PROGRAMS = 512
"""Programs that share the rows of a sum over them, at most: four for each multiprocessor of an H100."""
ROWS, COLUMNS = 32, 64
"""The block of a program."""


def kernels() -> Any:
    """The module of kernels. Raises ImportError without the package triton."""
    from . import triton_kernels

    return triton_kernels


def launch(kernel: Any, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of `like`."""
    with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
        kernel[grid](*arguments, **constants)


def sum_type(x: Tensor) -> torch.dtype:
    """The type that kernels compute in for x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _accumulator(x: Tensor) -> Any:
    import triton.language as tl

    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _programs(rows: int) -> int:
    return min(PROGRAMS, _blocks(rows, ROWS))


def _sizes(x: Tensor) -> dict[str, Any]:
    return {"BN": ROWS, "BC": COLUMNS, "ACC": _accumulator(x)}


def moments(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation (C,) of each channel of x, which `norm` takes; its running statistics follow them.

    Of several processes all hold those of all their rows. Raises ValueError for one row.
    """
    rows, channels = _rows(x), x.shape[-1]
    if rows < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {rows} of {channels} channels")
    programs, kind = _programs(rows), sum_type(x)
    partial = torch.empty(3, programs, channels, dtype=kind, device=x.device)
    grid = programs, _blocks(channels, COLUMNS)
    launch(kernels().column_moments, grid, x, x, partial, rows, channels, **_sizes(x))
    if processes() > 1:
        partial = gathered(_combined(partial))
        programs = partial.shape[1]
    mean, inverse = (torch.empty(channels, dtype=kind, device=x.device) for _ in range(2))
    norm.num_batches_tracked.add_(1)
    launch(
        kernels().finish_moments,
        (_blocks(channels, 16),),
        x,
        *(partial, mean, inverse, norm.running_mean, norm.running_var, channels, programs),
        EPS=norm.eps,
        MOMENTUM=norm.momentum,
        BP=_power(programs),
        BC=16,
        ACC=_accumulator(x),
    )
    return mean, inverse


def _combined(partial: Tensor) -> Tensor:
    """Counts, means and sums of squared deviations of all programs (3, programs, C) as those of one (3, 1, C)."""
    counts, means, squares = partial.unbind()
    count = counts.sum(dim=0, keepdim=True)
    mean = (counts * means).sum(dim=0, keepdim=True) / count
    deviations = squares.sum(dim=0, keepdim=True) + (counts * (means - mean).square()).sum(dim=0, keepdim=True)
    return torch.stack([count, mean, deviations])


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


def signs(x: Tensor, learnable_bias: Tensor, kind: torch.dtype) -> Tensor:
    """Signs of x + learnable_bias (..., C), as numbers of a type."""
    out = torch.empty(x.shape, dtype=kind, device=x.device)
    rows, channels = _rows(x), x.shape[-1]
    grid = _blocks(rows, ROWS), _blocks(channels, COLUMNS)
    launch(kernels().signs, grid, x, x, learnable_bias, out, rows, channels, **_sizes(x))
    return out


def signs_backward(x: Tensor, learnable_bias: Tensor, grad: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gradients of x (..., C), to which `add` is added, and of the learnable_bias (C,), for that of the signs."""
    rows, channels = _rows(x), x.shape[-1]
    programs = _programs(rows)
    grad_x = torch.empty_like(x)
    partial = torch.empty(programs, channels, dtype=sum_type(x), device=x.device)
    grid = programs, _blocks(channels, COLUMNS)
    arguments = x, learnable_bias, grad, add, grad_x, partial, rows, channels
    launch(kernels().signs_backward, grid, x, *arguments, ADD=add is not None, **_sizes(x))
    return grad_x, partial.sum(dim=0).to(learnable_bias.dtype)


def binarised(latent: Tensor, centred: bool, kind: torch.dtype) -> Tensor:
    """Latent weights (O, ...), less the mean of each output if `centred`, as signs times the mean magnitude."""
    out = torch.empty(latent.shape, dtype=kind, device=latent.device)
    outputs, inputs = latent.shape[0], latent.numel() // latent.shape[0]
    sizes = {"BK": _power(inputs), "ACC": _accumulator(latent)}
    launch(kernels().binarise, (outputs,), latent, latent, out, inputs, CENTRED=centred, **sizes)
    return out


def binarised_backward(latent: Tensor, centred: bool, grad: Tensor) -> Tensor:
    """The gradient of latent weights for that of binary ones, contiguous."""
    own = torch.empty_like(latent)
    outputs, inputs = latent.shape[0], latent.numel() // latent.shape[0]
    sizes = {"BK": _power(inputs), "ACC": _accumulator(latent)}
    launch(kernels().binarise_backward, (outputs,), latent, latent, grad, own, inputs, CENTRED=centred, **sizes)
    return own


def takes_means(repeats: int) -> bool:
    """Whether `Unit` with `learnable_bias` can average so many neighbouring channels: they must divide a block."""
    return COLUMNS % repeats == 0


class Unit(NamedTuple):
    """activation(norm(h) + residual), the residual (..., C) tiled to the channels of h (..., r C), then scale * it +
    shift; each piece only if its tensors are there. With `learnable_bias`, signs of their sum and means of r
    neighbouring channels instead."""

    h: Tensor
    residual: Tensor | None = None
    mean: Tensor | None = None
    inverse: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    shift_in: Tensor | None = None
    slope: Tensor | None = None
    shift_out: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    learnable_bias: Tensor | None = None

    @property
    def _width(self) -> int:
        return self.h.shape[-1] if self.residual is None else self.residual.shape[-1]

    def _constants(self) -> dict[str, Any]:
        return {
            "REPEATS": self.h.shape[-1] // self._width,
            "NORM": self.mean is not None,
            "RESIDUAL": self.residual is not None,
            "ACTIVATION": self.slope is not None,
            "SCALE": self.scale is not None,
            "SIGNS": self.learnable_bias is not None,
            **_sizes(self.h),
        }

    def output(self, kind: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The output, of a type, as h; or signs, and means (..., C)."""
        out, rows = torch.empty(self.h.shape, dtype=kind, device=self.h.device), _rows(self.h)
        means = None
        if self.learnable_bias is not None:
            means = torch.empty(*self.h.shape[:-1], self._width, dtype=kind, device=self.h.device)
        grid = _blocks(rows, ROWS), _blocks(self._width, COLUMNS)
        launch(kernels().unit, grid, self.h, *self, out, means, rows, self._width, **self._constants())
        return out, means

    def gradients(self, grad: Tensor, means: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Of h, residual, norm's weight and bias, shift_in, slope, shift_out, scale, shift and learnable_bias, for that
        of the output, or of signs and means; of what is not there, numbers without meaning or None."""
        rows, channels, constants = _rows(self.h), self.h.shape[-1], self._constants()
        programs = _programs(rows)
        partial = torch.empty(programs, 5, channels, dtype=sum_type(self.h), device=self.h.device)
        grid = programs, _blocks(channels, COLUMNS)
        launch(kernels().unit_sums, grid, self.h, *self, grad, means, partial, rows, self._width, **constants)
        sums = partial.sum(dim=0)
        shared = mean_of_sums(sums) if self.mean is not None else sums
        of_h = torch.empty_like(self.h)
        of_residual = None if self.residual is None else torch.empty_like(self.residual)
        grid = _blocks(rows, ROWS), _blocks(self._width, COLUMNS)
        arguments = grad, means, shared, of_h, of_residual, rows, self._width
        launch(kernels().unit_gradients, grid, self.h, *self, *arguments, **constants)
        of_weight, of_bias, of_slope, given, last = sums.unbind()
        scaled = None if self.scale is None else given * self.scale
        of_shift_out = given if scaled is None else scaled
        of_shift = None if self.scale is None else given
        return of_h, of_residual, of_weight, of_bias, -of_bias, of_slope, of_shift_out, last, of_shift, last


def softmax_levels(scores: Tensor, step: Tensor, offset: Tensor, factor: float, kind: torch.dtype) -> Tensor:
    """Decomposed quantisation of softmax(scores * factor): scores (..., heads, T, S), step and offset (heads,)."""
    out = torch.empty(scores.shape, dtype=kind, device=scores.device)
    grid, sizes = _attention(scores)
    arguments = scores, step, offset, out, *scores.shape[-3:]
    launch(kernels().softmax_levels, grid, scores, *arguments, FACTOR=factor, **sizes)
    return out


def softmax_levels_backward(
    scores: Tensor, step: Tensor, offset: Tensor, factor: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of scores, step and offset for that of the quantised probabilities; not scaled as LSQ has them."""
    grid, sizes = _attention(scores)
    partial = torch.empty(*grid, 2, dtype=sum_type(scores), device=scores.device)
    own = torch.empty_like(scores)
    arguments = scores, step, offset, grad, own, partial, *scores.shape[-3:]
    launch(kernels().softmax_levels_backward, grid, scores, *arguments, FACTOR=factor, **sizes)
    of_step, of_offset = partial.view(-1, scores.shape[-3], grid[1], 2).sum(dim=(0, 2)).unbind(dim=1)
    return own, of_step, of_offset


def _attention(scores: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    """Programs and blocks for scores (..., heads, T, S): a program has whole rows, some 4096 scores."""
    tokens, keys = scores.shape[-2:]
    width = max(16, _power(keys))
    height = max(1, min(_power(tokens), 4096 // width))
    grid = math.prod(scores.shape[:-2]), _blocks(tokens, height)
    return grid, {"BT": height, "BS": width, "ACC": _accumulator(scores)}


def cross(base: Tensor, n: Tensor, taps: Tensor, shift: Tensor, cyclic: bool) -> Tensor:
    """base + shift + the sum over `taps` (9, C) of tokens from each of n (B, H, W, C), of the type of `base`."""
    return _cross(base, n, taps, shift, cyclic, torch.empty_like(base), 1)


def cross_backward(n: Tensor, taps: Tensor, cyclic: bool, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of n, taps and shift for that of the output."""
    own = _cross(None, grad, taps, None, cyclic, torch.empty_like(n), -1)
    rows, channels = _rows(n), n.shape[-1]
    programs = _programs(rows)
    partial = torch.empty(programs, 16, channels, dtype=sum_type(n), device=n.device)
    grid = programs, _blocks(channels, COLUMNS)
    arguments = n, grad, partial, rows, *n.shape[1:]
    launch(kernels().cross_sums, grid, n, *arguments, CYCLIC=cyclic, **_sizes(n))
    sums = partial.sum(dim=0)
    return own, sums[:9], sums[9]


def _cross(
    base: Tensor | None, n: Tensor, taps: Tensor, shift: Tensor | None, cyclic: bool, out: Tensor, side: int
) -> Tensor:
    rows, channels = _rows(n), n.shape[-1]
    grid = _blocks(rows, ROWS), _blocks(channels, COLUMNS)
    arguments = base, n, taps, shift, out, rows, *n.shape[1:]
    flags = {"SIDE": side, "BASE": base is not None, "CYCLIC": cyclic}
    launch(kernels().cross, grid, n, *arguments, **flags, **_sizes(n))
    return out
