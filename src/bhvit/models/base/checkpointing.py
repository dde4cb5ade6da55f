"""Activation checkpointing of modules that count batches (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), any shape, which keeps x alone for backward and computes the rest again there."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module)

    y: Tensor = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
    return y


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Undo what computing again does to running statistics, which would count the batch twice."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
