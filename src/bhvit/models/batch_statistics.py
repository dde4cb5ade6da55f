"""Statistics of a batch over several processes.

They make training independent of the number of processes.

Every process holds an equal share of the batch; with one process, or outside `torch.distributed`, each function
here is what it says for the batch that is there. `torch.nn.SyncBatchNorm` is not used because it refuses a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_alone = False
"""Whether this process computes something that the others do not; of all its threads."""


def processes() -> int:
    """Processes that share every batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


@contextmanager
def alone() -> Iterator[None]:
    """Within this, statistics are those of this process, which exchanges nothing."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes.

    Each process's loss depends on every share, so gradients are summed too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of every process's `x`, any shape, with gradients."""
    count = processes()
    if count == 1:
        return x
    total: Tensor = _Sum.apply(x)
    return total / count


def least_over_processes(x: Tensor) -> Tensor:
    """The least of every process's `x`, element by element, any shape, without gradients."""
    least = x.detach().clone(memory_format=torch.contiguous_format)
    if processes() > 1:
        dist.all_reduce(least, dist.ReduceOp.MIN)
    return least


def gathered(partial: Tensor) -> Tensor:
    """Every process's statistics (kinds, parts, channels), one after the other along the parts, without gradients."""
    if processes() == 1:
        return partial
    every = [torch.empty_like(partial) for _ in range(processes())]
    dist.all_gather(every, partial)
    return torch.cat(every, dim=1)


def mean_of_sums(sums: Tensor) -> Tensor:
    """The mean of every process's `sums`, any shape, without gradients."""
    if processes() == 1:
        return sums
    total = sums.clone()
    dist.all_reduce(total)
    return total / processes()


def shared_batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Apply `norm` in training mode to tokens (N, C), with all processes' statistics.

    Like `torch.nn.BatchNorm1d` it normalises with the biased variance and tracks the unbiased one.
    """
    tokens = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = len(tokens) * processes()
    mean = mean_over_processes(tokens.mean(dim=0))
    centred = tokens - mean
    variance = mean_over_processes(centred.square().mean(dim=0))
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            rate = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), rate)
    return (centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias).to(x.dtype)
