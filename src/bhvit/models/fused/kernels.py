"""The native kernels of a training step, by type of float.

They take tensors by name and check type, shape, layout and device of each before they read it: TypeError or ValueError
name the tensor that does not fit. `bhvit/_training.pyi` has their signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..._training import Kernels

BY_ISA: dict[str, dict[torch.dtype, Kernels]] = {}
"""Of each instruction set that this machine can run, the fastest first, its functions by type of float."""
try:
    from ..._training import isas

    BY_ISA = {name: {torch.float32: isa.float32, torch.float64: isa.float64} for name, isa in isas.items()}
except ImportError:  # built for another machine, or not at all: layers compute as they are written
    pass
KERNELS: dict[torch.dtype, Kernels] = next(iter(BY_ISA.values()), {})


def kernels(x: Tensor) -> Kernels:
    """The native functions for the type of x."""
    return KERNELS[x.dtype]


def threads() -> int:
    """The threads that a kernel uses."""
    return torch.get_num_threads()


def per_channel(like: Tensor) -> Tensor:
    """An empty vector (C,), C being the channels of `like` (..., C)."""
    return like.new_empty(like.shape[-1])
