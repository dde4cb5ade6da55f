"""Callbacks: code of one's own that follows a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..models import BHViT
from .config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run, as its callbacks see it when it begins."""

    config: TrainConfig
    folder: Path
    epochs_done: int
    """Epochs that were completed before, of a resumed run."""


class Callback:
    """Base class: override what is of interest. Of several processes, only the first calls it.

    An exception ends the run, which `--resume` continues from the last save. The model that `on_epoch_end` gets is
    the one that was evaluated and saved; a callback must leave it as it is, or a run no longer repeats exactly.
    """

    def on_train_begin(self, run: RunInfo) -> None:
        """The run begins or goes on; its folder exists."""

    def on_epoch_end(self, entry: Mapping[str, Any], model: BHViT) -> None:
        """An epoch was evaluated; `entry` is its line of log.jsonl.

        A run killed right after this computes the epoch again, to the same result, and calls this again.
        """

    def on_train_end(self) -> None:
        """The run is over, however it ended."""


@contextmanager
def following(callbacks: Sequence[Callback], run: RunInfo) -> Iterator[None]:
    """Begin all callbacks, and end those that began."""
    with ExitStack() as stack:
        for callback in callbacks:
            callback.on_train_begin(run)
            stack.callback(callback.on_train_end)
        yield
