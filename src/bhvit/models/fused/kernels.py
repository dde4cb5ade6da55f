"""The native kernels of a training step, by type of number, and tensors as they take them: addresses and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BY_ISA: dict[str, dict[torch.dtype, Any]] = {}
"""Of each instruction set that this machine can run, the fastest first, its functions by type of number."""
try:
    from ..._training import isas

    BY_ISA = {name: {torch.float32: isa.float32, torch.float64: isa.float64} for name, isa in isas.items()}
except ImportError:  # built for another machine, or not at all: layers compute as they are written
    pass
KERNELS: dict[torch.dtype, Any] = next(iter(BY_ISA.values()), {})


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
