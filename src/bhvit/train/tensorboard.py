"""A run's log for TensorBoard, where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import require_extra

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raises MissingExtraError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise require_extra("tensorboard", "tensorboard") from None


class TensorBoardLog:
    """Writes entries of the log as scalars, steps being epochs; what a killed run wrote after `done` is void."""

    def __init__(self, run: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / FOLDER), purge_step=done + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; a table in it becomes a scalar for each of its names."""
        for key, value in entry.items():
            for name, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                self._writer.add_scalar(f"{key}/{name}" if name else key, number, entry["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
