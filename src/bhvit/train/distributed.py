"""Processes that train one model together, and their shares of a batch.

`torchrun` starts them and says in the environment how many there are; gloo joins them on CPUs, nccl on GPUs, a GPU
each. Weights and progress are the same in all of them, so that only the first writes. Random numbers are drawn for the
whole batch, so that results depend on the number of processes by rounding alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import UserError
from .config import TrainConfig

TIMEOUT = datetime.timedelta(days=1)
"""How long processes wait for each other. The first may download images or compute a teacher's outputs meanwhile, which
takes longer than PyTorch's ten minutes; when one fails, what started them ends the others at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on this machine, which is that of its GPU."""

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every process's `values`, any shape, without gradients."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def started_processes() -> int:
    """Count the processes that `torchrun` or `--processes` started; 1 without them."""
    # WORLD_SIZE alone may be left over from a scheduler; what starts processes sets all of these.
    started = all(os.environ.get(name, "").isdigit() for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"))
    return max(1, int(os.environ["WORLD_SIZE"])) if started else 1


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; without it, this one alone.

    Raises UserError if there are fewer GPUs on this machine than processes.
    """
    ours = started_processes() > 1 and not dist.is_initialized()
    if ours:
        gpu = torch.device(device).type == "cuda" if device != "auto" else torch.cuda.is_available()
        here = _number("LOCAL_WORLD_SIZE", 1)
        if gpu and torch.cuda.device_count() < here:
            raise UserError(f"{here} processes need a GPU each; this machine has {torch.cuda.device_count()}")
        if gpu:  # named before anything is exchanged: otherwise all of them would make a context on the first one
            device_id = torch.device("cuda", _number("LOCAL_RANK", 0))
            torch.cuda.set_device(device_id)
            known = "device_id" in inspect.signature(dist.init_process_group).parameters  # from PyTorch 2.3 on
            options: dict[str, Any] = {"device_id": device_id} if known else {}
            dist.init_process_group("nccl", timeout=TIMEOUT, **options)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        if dist.is_initialized():
            local = _number("LOCAL_RANK", 0)
            yield Processes(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=local)
        else:
            yield Processes()
    finally:
        if ours:
            dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    """A whole number of the environment."""
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def choose_device(name: str, processes: Processes) -> torch.device:
    """The device that a setting names.

    Raises UserError, with those there are and the reason, if it cannot be had.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if processes.size > 1 and device.type == "cuda":
            if ":" in name:
                raise UserError(
                    f"device {name!r} is one GPU for {processes.size} processes: give cuda, and each has its own"
                )
            device = torch.device("cuda", processes.local_rank)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # graphs and kernels take the current one
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's, of a device absent or full
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"cannot use device {name!r} ({reason}); available: {', '.join(available)}") from error
    return device


@dataclasses.dataclass(frozen=True)
class BatchShard:
    """The share of one process in a batch of `batch` images.

    The batch is computed in `micro_batches` (see `accumulate`).
    """

    batch: int
    micro_batches: int = 1
    processes: Processes = dataclasses.field(default_factory=Processes)

    @property
    def rows_of_micro_batch(self) -> Tensor:
        """Positions within a micro-batch, int64 (batch / micro_batches / processes,), the same in every micro-batch.

        Mixing pairs image i of a micro-batch with image i from its end. Both go to one process where their number
        is even.
        """
        size = self.batch // self.micro_batches
        own = size // self.processes.size
        if own % 2:
            return torch.arange(own) + self.processes.rank * own
        first = torch.arange(own // 2) + self.processes.rank * (own // 2)
        return torch.cat([first, size - 1 - first.flip(0)])

    @property
    def rows(self) -> Tensor:
        """Positions within the batch, micro-batch after micro-batch, int64 (batch / processes,)."""
        starts = torch.arange(self.micro_batches) * (self.batch // self.micro_batches)
        return (starts[:, None] + self.rows_of_micro_batch).flatten()

    def check_divides(self, mixing: bool) -> None:
        """Raises UserError unless the batch divides, into pairs if images are mixed."""
        unit = self.micro_batches * self.processes.size * (2 if mixing else 1)
        if self.batch % unit:
            factors = [f"accumulate {self.micro_batches}"] * (self.micro_batches > 1)
            factors += [f"{self.processes.size} processes"] * (self.processes.size > 1) + ["pairs to mix"] * mixing
            near = max(unit, self.batch // unit * unit)
            raise UserError(f"batch_size {self.batch} does not divide into {', '.join(factors)}: give {near}")


def check_batches(config: TrainConfig, processes: int) -> None:
    """Raises UserError unless the batches of every phase divide among so many processes."""
    for phase in config.phase_configs():
        BatchShard(phase.batch_size, phase.accumulate, Processes(size=processes)).check_divides(phase.mixing)


class _ShardedDropPath(DropPath):  # type: ignore[misc] # timm is Any to mypy
    """Stochastic depth that draws for all processes' images and takes its own."""

    def __init__(self, rate: float, shard: BatchShard, device: torch.device) -> None:
        super().__init__(rate)
        # No buffer: DDP would give all processes the first one's rows.
        self.count, self.rows = shard.batch // shard.micro_batches, shard.rows_of_micro_batch.to(device)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((self.count, *(1,) * (x.ndim - 1))).bernoulli_(keep)
        kept: Tensor = x * mask[self.rows].div_(keep)
        return kept


def wrap_ddp(model: nn.Module, shard: BatchShard, device: torch.device) -> nn.Module:
    """`model` as the loop calls it: its gradients become the means over processes."""
    if shard.processes.size == 1:
        return model
    for module in model.modules():
        if isinstance(getattr(module, "drop_path", None), DropPath):
            rate = float(module.drop_path.drop_prob)  # type: ignore[union-attr, arg-type]
            module.drop_path = _ShardedDropPath(rate, shard, device)
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for it, older only this
        # Batch statistics are shared already, so buffers are equal and need no sending.
        # Every step has the same graph, but for those that leave out the exchange for parts of a batch.
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=ids,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=shard.micro_batches == 1,
        )
