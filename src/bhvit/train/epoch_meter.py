"""Loss, accuracy and time of the epoch under way, over all processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .context import RunContext
from .run_folder import Progress

T = TypeVar("T")


class EpochMeter:
    """Sums over the steps of an epoch, from where a resumed one stopped."""

    def __init__(self, progress: Progress, context: RunContext, batch_size: int, steps: int) -> None:
        """`steps` is the number of them in a whole epoch."""
        self.steps, self.batch_size, self._processes = steps, batch_size, context.processes
        self._made = time.perf_counter()
        self._begin = self._made - progress.seconds
        self._waited = 0.0
        # The mean of losses, the sum of the rest.
        self._weights = torch.tensor([1 / context.processes.size, 1.0], dtype=torch.float64, device=context.device)
        start = [progress.loss_sum, progress.correct, 0]
        self._sums = torch.tensor(start, dtype=torch.float64, device=context.device)

    def add(self, outcome: Tensor, asked: bool = False) -> None:
        """Add a step of this process.

        outcome: its loss, and how many of its images were right, float64 (2,). asked: whether a signal has asked this
        process to end.
        """
        signals = self._sums.new_full((1,), float(asked))
        self._sums += self._processes.sum(torch.cat([outcome * self._weights, signals]))

    @property
    def asked_to_end(self) -> bool:
        """Whether a signal has asked one of the processes to end.

        On a GPU this waits for the steps so far.
        """
        return bool(self._sums[2] > 0)

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, whose making counts as waiting for data."""
        remaining = iter(batches)
        while True:
            begin = time.perf_counter()
            try:
                batch = next(remaining)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - begin
            yield batch

    @property
    def waited(self) -> float:
        """The share of this meter's time that went into waiting for data."""
        return self._waited / max(time.perf_counter() - self._made, 1e-9)

    @property
    def finite(self) -> bool:
        """Whether the sums are numbers; on a GPU this waits for them."""
        return bool(self._sums.isfinite().all())

    @property
    def seconds(self) -> float:
        """Time that the epoch has taken so far."""
        return time.perf_counter() - self._begin

    def loss(self, steps: int) -> float:
        """The mean loss of the first `steps` steps."""
        return self._sums[0].item() / steps

    def top1(self, steps: int) -> float:
        """The accuracy on the training images of the first `steps` steps, 0 to 1."""
        return self._sums[1].item() / (steps * self.batch_size)

    def describe(self, steps: int, epochs_left: int) -> str:
        """Describe the state after `steps` steps, this epoch being the first of `epochs_left`."""
        left = self.seconds / steps * (epochs_left * self.steps - steps)
        return f"loss {self.loss(steps):.3f}, accuracy {self.top1(steps):.1%}, {_clock(left)} left"

    def store(self, progress: Progress, steps: int) -> None:
        """Write the state after `steps` steps into `progress`."""
        progress.step, progress.seconds = steps, self.seconds
        right = float(self._sums[1].item())
        progress.loss_sum, progress.correct = self._sums[0].item(), int(right) if right.is_integer() else right


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
