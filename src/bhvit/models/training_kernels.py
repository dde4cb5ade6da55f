"""The native kernels of a training step, by type of number, and tensors as they take them: addresses and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..bits import LANES, WORD

LEVELS: dict[str, dict[torch.dtype, Any]] = {}
"""Of each instruction set that this machine can run, the fastest first, its functions by type of number."""
try:
    from .._training import levels

    LEVELS = {name: {torch.float32: level.float32, torch.float64: level.float64} for name, level in levels.items()}
except ImportError:  # built for another machine, or not at all: layers compute as they are written
    pass
KERNELS: dict[torch.dtype, Any] = next(iter(LEVELS.values()), {})


def channels_of(like: Tensor, count: int) -> list[Tensor]:
    """`count` vectors (C,) that are not filled yet, C being the channels of `like` (..., C)."""
    return [like.new_empty(like.shape[-1]) for _ in range(count)]


def kernels(x: Tensor) -> Any:
    """The native functions for the type of x."""
    return KERNELS[x.dtype]


def shape_of(x: Tensor) -> tuple[int, int, int]:
    """Rows and channels of x (..., C), and the threads to use."""
    return x.numel() // x.shape[-1], x.shape[-1], torch.get_num_threads()


def grid_of(x: Tensor) -> tuple[tuple[int, ...], int]:
    """The shape of x (B, H, W, C), and the threads to use."""
    return tuple(x.shape), torch.get_num_threads()


def at(tensor: Tensor | None) -> int:
    """Where the numbers of a contiguous tensor lie; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def all_at(tensors: Sequence[Tensor | None]) -> list[int]:
    """The same of each."""
    return [at(tensor) for tensor in tensors]


def signs_of(x: Tensor, move: Tensor, binary: bool) -> Tensor:
    """sign(x + move), or x + move if not `binary`: contiguous (..., C) and (C,) -> (..., C)."""
    out = torch.empty_like(x)
    kernels(x).signs(*shape_of(x), at(x), at(move), binary, at(out))
    return out


def signs_backward(x: Tensor, move: Tensor, binary: bool, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the move for that of `signs_of`."""
    dx, (dmove,) = torch.empty_like(x), channels_of(x, 1)
    kernels(x).signs_backward(*shape_of(x), at(x), at(move), binary, at(grad), at(dx), at(dmove))
    return dx, dmove


def input_gradient(rows: Tensor, weight: Tensor, binary: bool, out: Tensor | None = None) -> Tensor:
    """rows (R, O) @ weight (O, K), into `out` if given; `binary`: weights of an output differ in their signs alone."""
    weight = weight.contiguous()
    if binary and _multiplies_signs(rows, weight):
        out = rows.new_empty(rows.shape[0], weight.shape[1]) if out is None else out
        columns = _columns(weight)
        kernels(weight).sign_columns(*shape_of(weight), at(weight), 0, at(columns))
        return _sign_products(rows, False, weight[:, 0].abs(), columns, out)
    return torch.mm(rows, weight, out=out)


def weight_gradient(rows: Tensor, x: Tensor, move: Tensor, binary: bool) -> Tensor:
    """rows (R, O), transposed, @ `signs_of` x (..., K), R tokens: (O, K)."""
    if binary and _multiplies_signs(rows, x):
        columns = _columns(x)
        kernels(x).sign_columns(*shape_of(x), at(x), at(move), at(columns))
        return _sign_products(rows, True, None, columns, x.new_empty(rows.shape[1], x.shape[-1]))
    return rows.T @ signs_of(x, move, binary).view(-1, x.shape[-1])


def weight_gradient_of_bits(rows: Tensor, bits: Tensor, x: Tensor) -> Tensor:
    """The same for signs that are given as bits; x has their shape and type."""
    if _multiplies_signs(rows, x):
        columns = _columns(x)
        kernels(x).bit_columns(*shape_of(x), at(bits), at(columns))
        return _sign_products(rows, True, None, columns, x.new_empty(rows.shape[1], x.shape[-1]))
    signs = torch.empty_like(x)
    kernels(x).numbers(*shape_of(x), at(bits), at(signs))
    return rows.T @ signs.view(-1, x.shape[-1])


def _multiplies_signs(rows: Tensor, signs: Tensor) -> bool:
    return bool(kernels(rows).multiplies_signs) and signs.shape[-1] % LANES == 0


def _columns(x: Tensor) -> Tensor:
    """Room for the signs of x (..., C) in the columns of native/training/kernels.h: (rows / 32 rounded up, C)."""
    rows, channels, _ = shape_of(x)
    return torch.empty((rows + WORD - 1) // WORD, channels, dtype=torch.int32, device=x.device)


def _sign_products(rows: Tensor, transposed: bool, scale: Tensor | None, columns: Tensor, out: Tensor) -> Tensor:
    rows = rows.contiguous()
    given = at(rows), transposed, rows.shape[0 if transposed else 1], at(scale), at(columns)
    kernels(rows).sign_products(*shape_of(out), *given, at(out))
    return out
