"""A run's log for TensorBoard, where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import require_extra
from ..models import BHViT
from .callbacks import Callback, RunInfo

FOLDER = "tensorboard"


class TensorBoardLog(Callback):
    """Writes entries of the log as scalars, steps being epochs.

    Raises MissingExtraError if TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise require_extra("tensorboard", "tensorboard") from None
        self._open = SummaryWriter
        self._writer: Any = None

    def on_train_begin(self, run: RunInfo) -> None:
        # What a killed run wrote of later epochs is void.
        self._writer = self._open(str(run.folder / FOLDER), purge_step=run.epochs_done + 1)

    def on_epoch_end(self, entry: Mapping[str, Any], model: BHViT) -> None:
        for name, number in scalars(entry).items():
            self._writer.add_scalar(name, number, entry["epoch"])
        self._writer.flush()

    def on_train_end(self) -> None:
        self._writer.close()


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log entry by name; a table in it gives "table/name"."""
    found: dict[str, float] = {}
    for key, value in entry.items():
        found |= (
            {f"{key}/{name}": number for name, number in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return found
