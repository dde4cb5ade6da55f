"""Loss, accuracy and time of the epoch under way, over all processes."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from .context import RunContext
from .run_folder import Progress


class EpochMeter:
    """Sums over the steps of an epoch, from where a resumed one stopped."""

    def __init__(self, progress: Progress, context: RunContext, batch_size: int, steps: int) -> None:
        """`steps` is the number of them in a whole epoch."""
        self.steps, self.batch_size, self._processes = steps, batch_size, context.processes
        self._begin = time.perf_counter() - progress.seconds
        start = [progress.loss_sum, progress.correct, 0]
        self._sums = torch.tensor(start, dtype=torch.float64, device=context.device)

    def add(self, loss: Tensor, right: Tensor, asked: bool = False) -> None:
        """Add a step: this process's loss and how many of its images were right, scalars; and whether a signal has
        asked this process to end."""
        signals = self._sums.new_full((), float(asked))
        step = torch.stack([loss.double() / self._processes.size, right.double(), signals])
        self._sums += self._processes.sum(step)

    @property
    def asked_to_end(self) -> bool:
        """Whether a signal has asked one of the processes to end; on a GPU this waits for the steps so far."""
        return bool(self._sums[2] > 0)

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
        """What a progress bar says after `steps` steps, this epoch being the first of `epochs_left`."""
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
