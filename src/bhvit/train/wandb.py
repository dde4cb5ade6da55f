"""A run's log for Weights & Biases, where it is asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, require_extra
from ..models import BHViT
from .callbacks import Callback, RunInfo
from .run_folder import WANDB_ID
from .tensorboard import scalars

PROJECT = "bhvit"


class WandbLog(Callback):
    """Sends entries of the log to Weights & Biases, steps being epochs.

    wandb's own environment variables say where to: WANDB_PROJECT (default: bhvit), WANDB_ENTITY, WANDB_MODE=offline.
    Raises MissingExtraError if wandb is not installed.
    """

    def __init__(self, *, quiet: bool) -> None:
        try:
            import wandb
        except ImportError:
            raise require_extra("wandb", "wandb") from None
        self._wandb: Any = wandb
        self._quiet = quiet
        self._run: Any = None

    def on_train_begin(self, run: RunInfo) -> None:
        identity = run.folder / WANDB_ID
        if run.epochs_done == 0 or not identity.is_file():
            identity.write_text(f"{secrets.token_hex(4)}\n", encoding="ascii")
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.folder.resolve().name,
                id=identity.read_text(encoding="ascii").strip(),
                resume="allow",
                dir=str(run.folder),
                config=run.config.to_dict(),
                settings=self._wandb.Settings(silent=self._quiet),
            )
        except Exception as error:  # not logged in, no network, a project that is not ours: wandb's own types
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot log to Weights & Biases: {reason}; `wandb login`, WANDB_MODE=offline or --set wandb=false"
            ) from None

    def on_epoch_end(self, entry: Mapping[str, Any], model: BHViT) -> None:
        self._run.log(scalars(entry), step=entry["epoch"])

    def on_train_end(self) -> None:
        self._run.finish()
