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
    """Address of a tensor's first element; 0 for none. Raises ValueError unless it is contiguous and on the CPU."""
    if tensor is None:
        return 0
    if not (tensor.is_cpu and tensor.is_contiguous()):
        raise ValueError(
            f"native kernels take contiguous tensors on the CPU, not one of shape {tuple(tensor.shape)} with strides "
            f"{tensor.stride()} on {tensor.device}"
        )
    return tensor.data_ptr()


def all_at(tensors: Sequence[Tensor | None]) -> list[int]:
    """The same of each. Raises TypeError unless all have one type."""
    if len(types := {tensor.dtype for tensor in tensors if tensor is not None}) > 1:
        raise TypeError(f"native kernels take tensors of one type, not of {', '.join(sorted(map(str, types)))}")
    return [at(tensor) for tensor in tensors]


def check_channels(x: Tensor, *vectors: Tensor | None) -> None:
    """Raises TypeError or ValueError unless each of `vectors` has x's type and a value for each channel of x."""
    dtype, shape = x.dtype, x.shape[-1:]
    for vector in vectors:
        if vector is not None and (vector.dtype is not dtype or vector.shape != shape):
            _refuse(vector, dtype, shape)


def check_like(x: Tensor, *others: Tensor) -> None:
    """Raises TypeError or ValueError unless each of `others` has x's type and shape."""
    dtype, shape = x.dtype, x.shape
    for other in others:
        if other.dtype is not dtype or other.shape != shape:
            _refuse(other, dtype, shape)


def _refuse(tensor: Tensor, dtype: torch.dtype, shape: torch.Size) -> None:
    if tensor.dtype is not dtype:
        raise TypeError(f"native kernels take tensors of one type, not of {dtype} and {tensor.dtype}")
    raise ValueError(f"a tensor has shape {tuple(tensor.shape)}, not {tuple(shape)}")
