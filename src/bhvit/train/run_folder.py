"""The folder of a run, and how it survives an interruption at any moment.

    config.json           the settings
    data.json             the classes, and digests of the images of each split and of the teacher
    log.jsonl             one JSON line an epoch
    last.safetensors      weights after the last epoch, a checkpoint that every command takes
    best.safetensors      the same of the best epoch, see `merit`
    phase0.safetensors    the model that phase 1 started from, and so on, of a run with phases
    resume.safetensors    what `--resume` continues from: weights, their average, optimiser state and progress

Each file is written under another name and renamed into place. `resume.safetensors` is written last and is
complete in itself, so whatever kills a run between two files, it continues from a consistent moment,
computes the rest again to the same bits, and replaces what was ahead of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import UserError
from ..files import check_folder, check_regular, lock, remove_parts, write_atomically
from ..models import model_spec
from ..spec.overrides import value_of
from ..text import some
from .config import FIELDS, MACHINE, Start, TrainConfig
from .flip_monitor import FlipMonitor
from .optim import load_optimizer, optimizer_state

VERSION = "1"
LOCK = ".lock"
WANDB_ID = "wandb-run-id"
"""File with the identity of the run at Weights & Biases, which a resumed run goes on with."""
FILES = ("config.json", "data.json", "log.jsonl", "last.safetensors", "best.safetensors", "resume.safetensors")


@dataclasses.dataclass(kw_only=True)
class Progress:
    """Progress of a run, and the sums of the epoch under way."""

    phase: int = 0
    """Phases completed."""
    epoch: int = 0
    """Epochs completed of the phase under way."""
    step: int = 0
    """Steps completed of the epoch under way."""
    loss_sum: float = 0.0
    """Sum over this epoch's steps of the loss."""
    correct: float = 0
    """Training images of this epoch that were classified right; of masks the share of each batch's pixels."""
    seconds: float = 0.0
    """Time this epoch has taken."""
    best: float = -1.0
    """Best validation top-1 or mIoU of the phase so far."""
    best_loss: float = math.inf
    """The least validation loss of the epochs that have it; bhvit 0.1.0 wrote none."""
    stale: int = 0
    """Epochs completed since the first that had it."""


class State(NamedTuple):
    """The state of training that changes from step to step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: nn.Module | None = None
    monitor: FlipMonitor | None = None


class RunFolder:
    """Reads and writes the files of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.data, self.log, self.last, self.best, self.resume = (self.path / name for name in FILES)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process, making it if absent.

        Files that killed processes left half-written are removed.

        The lock is the kernel's: it ends with the process, however that ends. Raises UserError if another run has it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None
        try:
            try:
                lock(handle)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.path}: wait for it, or give another --out") from None
            remove_parts(self.path)
            yield
        finally:
            os.close(handle)

    def check_data(self, found: Mapping[str, Any]) -> None:
        """Raises UserError if the run there learned from other classes or images.

        The message says what changed.
        """
        check_regular(self.data)
        try:
            saved = json.loads(self.data.read_text(encoding="utf-8"))
            _check_identity(saved)
        except FileNotFoundError:  # bhvit 0.1.0 wrote none
            return
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.data} is damaged: {error}") from None
        if saved.get("classes") != found["classes"]:
            raise UserError(
                f"cannot resume {self.path}: it learned the classes {some(saved.get('classes') or [])}, "
                f"the data now has {some(found['classes'])}; "
                f"`bhvit train --init {self.last} --out NEW` starts from its weights"
            )
        for name, digest in found["teachers"].items():
            if saved.get("teachers", {}).get(name, digest) != digest:  # bhvit 0.1.0 wrote none
                raise UserError(
                    f"cannot resume {self.path}: its teacher {name} is another file now; put the former one there, or "
                    f"`bhvit train --init {self.last} --out NEW` starts from its weights"
                )
        for split in ("train", "validation"):
            before, now = saved.get(split) or {}, found[split]
            if before != now:
                raise UserError(
                    f"cannot resume {self.path}: its {split} images changed ({before.get('images')} then, "
                    f"{now['images']} now, or others of these names and sizes); "
                    f"`bhvit train --init {self.last} --out NEW` starts from its weights"
                )

    def check_checkpoints(self) -> None:
        """Raises UserError if a checkpoint of the epochs before is gone: resuming would not write it again."""
        missing = [path.name for path in (self.last, self.best) if not path.is_file()]
        if missing:
            raise UserError(
                f"cannot resume {self.path}: {' and '.join(missing)} of its earlier epochs is missing; put it back, or "
                "start a new run with --force"
            )

    def write_data(self, identity: Mapping[str, Any]) -> None:
        """Write which classes and images the run learns from."""
        write_atomically(self.data, json.dumps(identity, indent=2).encode() + b"\n")

    def clear(self) -> None:
        """Remove the files of a run, those that a resumed run needs first. Raises OSError."""
        for name in reversed(FILES):
            (self.path / name).unlink(missing_ok=True)
        for path in [*self.path.glob("phase[0-9]*.safetensors"), *self.path.glob("tensorboard/events.*")]:
            path.unlink()
        (self.path / WANDB_ID).unlink(missing_ok=True)

    def check_unused(self, force: bool) -> None:
        """Raises UserError if a run or a file is in the way.

        With `force` a run may be replaced.
        """
        check_folder(self.path)
        used = [name for name in FILES if (self.path / name).exists()]
        if used and not force:
            raise UserError(f"{self.path} holds a run ({used[0]}): --resume continues it, --force replaces it")

    def create(self, config: TrainConfig) -> None:
        """Make the folder, without a former run's files. Raises UserError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.clear()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None
        write_atomically(self.config, json.dumps(config.to_dict(), indent=2).encode() + b"\n")

    def settings(self) -> dict[str, Any]:
        """The settings of the run that is there, by name.

        Raises UserError if there is none.
        """
        if not self.config.is_file():
            raise UserError(
                f"{self.path} is not a run: it holds no {self.config.name}; `bhvit train --out {self.path}` makes one"
            )
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or not isinstance(values.get("data"), str):
                raise ValueError("it names no data")
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{self.config} is damaged: {error}") from None
        if "leftover_bits" in values:  # its name in bhvit 0.1.0
            values["float_bits"] = values.pop("leftover_bits")
        return values

    def saved_config(self) -> TrainConfig:
        """The settings to resume the run with.

        Raises UserError if there is no run, or a setting is unknown.
        """
        if not self.config.is_file():
            raise UserError(f"there is no run to resume in {self.path}")
        values = self.settings()
        try:
            return TrainConfig.from_dict(values)
        except UserError as error:
            raise UserError(f"{self.config} is damaged: {error}") from None

    def check_same_settings(self, config: TrainConfig) -> None:
        """Raises UserError if `config` computes something else than the run that is there."""
        saved = self.saved_config()
        old, new = saved.to_dict(), config.to_dict()
        changed = [key for key in FIELDS if old[key] != new[key] and key not in MACHINE]
        changed += sorted(key for key in old | new if key.startswith("phases.") and old.get(key) != new.get(key))
        overridden = sorted(saved.overrides.keys() | config.overrides.keys())
        if saved.model == config.model and any(old.get(key) != new.get(key) for key in overridden):
            # Of an override that one of them does not set, the model's own value: it may well be the same.
            before, after = (model_spec(one.model, num_classes=2, **one.model_settings()) for one in (saved, config))
            for key in overridden:
                old[key], new[key] = value_of(before, key), value_of(after, key)
                changed += [key] if old[key] != new[key] else []
        if changed:
            listed = ", ".join(f"{key} {old.get(key)!r} (now {new.get(key)!r})" for key in changed)
            raise UserError(
                f"cannot resume {self.path} with other settings: it was started with {listed}; "
                f"`bhvit train --init {self.last} --out NEW` starts a run with other settings from its weights"
            )

    def kept(self, phase: int) -> Path:
        """Return the path of the model that a phase's successor starts from."""
        return self.path / f"phase{phase}.safetensors"

    def keep(self, phase: int, start: Start) -> Path:
        """Put the best or last model of a phase where the next one overwrites nothing."""
        path = self.kept(phase)
        write_atomically(path, (self.best if start == "best" else self.last).read_bytes())
        return path

    def save(self, state: State, progress: Progress) -> None:
        """Write what `--resume` needs, in one atomic step."""
        tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
        if state.ema is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in state.ema.state_dict().items()}
        if state.monitor is not None:
            tensors |= {f"monitor.{name}": bits for name, bits in state.monitor.state().items()}
        moments, numbers = optimizer_state(state.model, state.optimizer)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        metadata = {"version": VERSION, "progress": json.dumps(dataclasses.asdict(progress))}
        if numbers:
            metadata["optimizer"] = json.dumps(numbers)
        write_atomically(self.resume, safetensors.torch.save(tensors, metadata))

    def progress(self) -> Progress:
        """Read the progress; a run killed before the first `save` starts again.

        Raises UserError as `load` does.
        """
        check_regular(self.resume)
        if not self.resume.exists():
            return Progress()
        with self._reading():
            with safetensors.safe_open(self.resume, framework="pt") as file:
                metadata = file.metadata() or {}
            if metadata.get("version") != VERSION:
                raise UserError(f"{self.resume} was written by another version of bhvit")
            values = json.loads(metadata["progress"])
            values.pop("best_epoch", None)  # bhvit 0.1.0 wrote it
            return Progress(**values)

    def load(self, state: State) -> None:
        """Bring a model, its average and its optimiser to where `save` left them.

        Raises UserError if the file is damaged or belongs to another model.
        """
        with self._reading():
            with safetensors.safe_open(self.resume, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                numbers = json.loads((file.metadata() or {}).get("optimizer", "{}"))
            for prefix, module in (("model.", state.model), ("average.", state.ema)):
                if module is not None:
                    module.load_state_dict(_below(prefix, tensors))
            if state.monitor is not None:  # bhvit 0.1.0 wrote nothing for it
                state.monitor.load(_below("monitor.", tensors))
            moments = _below("optimizer.", tensors)
            load_optimizer(state.model, state.optimizer, moments, numbers)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (SafetensorError, OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"cannot resume from {self.resume}: {reason}") from None

    def entries(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """The log, a dictionary an epoch; the first `epochs` of them.

        A damaged line ends it.
        """
        entries: list[dict[str, Any]] = []
        if self.log.is_file():
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    break
                if not isinstance(entry, dict) or not isinstance(entry.get("epoch"), int):
                    break
                entries.append(entry)
        return entries[:epochs]

    def rewind_log(self, epochs: int) -> None:
        """Drop what the log holds beyond `epochs`: they are computed again."""
        if self.log.exists():
            lines = [json.dumps(entry) + "\n" for entry in self.entries(epochs)]
            write_atomically(self.log, "".join(lines).encode())

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add one line and flush it."""
        check_regular(self.log)
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.log}: {error.strerror}") from None


def merit(entry: Mapping[str, Any]) -> tuple[float, float]:
    """What makes an epoch the best of its phase: validation top-1 or mIoU, then a lower validation loss.

    entry: a line of log.jsonl. Some hundred validation images often give several epochs the same top-1, and of those
    the first is the one that was trained least.
    """
    return entry["val_miou"] if "val_miou" in entry else entry["val_top1"], -entry["val_loss"]


def _check_identity(saved: Any) -> None:
    """Raises ValueError unless `saved` has the form that `write_data` gives."""
    if not isinstance(saved, dict):
        raise ValueError("it is no table")
    names = saved.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its classes are no list of names")
    if not all(isinstance(saved.get(part, {}), dict) for part in ("train", "validation", "teachers")):
        raise ValueError("a split or the teachers are no table")


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
