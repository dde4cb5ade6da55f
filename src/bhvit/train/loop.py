"""The training loop: from a `TrainConfig` to a run folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from ..calibration import fit
from ..data.metrics import Metrics, NonFiniteLogitsError
from ..data.segmentation_metrics import SegmentationMetrics
from ..errors import UserError, counted
from ..models import save_checkpoint
from ..system import allowed_cores
from .augment import seed_for
from .callbacks import Callback, RunInfo, following
from .config import TrainConfig
from .context import RunContext
from .distributed import Processes, check_batches, choose_device, process_group, started_processes
from .epoch_meter import EpochMeter
from .execution import reproducible
from .interrupt import Interruptible
from .loader import Batch
from .optim import learning_rate
from .phase import Phase, check_models, check_phases
from .run_data import open_run_data
from .run_folder import Progress, RunFolder, merit
from .teacher_outputs import teacher_outputs
from .tensorboard import TensorBoardLog
from .validation import validate
from .wandb import WandbLog

AnyMetrics: TypeAlias = "Metrics | SegmentationMetrics"
CUDA_CHECK_STEPS = 20
"""Steps between looks at the loss on a GPU, each of which waits for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The files and metrics of a finished run."""

    last: Path
    best: Path
    log: tuple[dict[str, Any], ...]
    """The lines of log.jsonl."""
    metrics: AnyMetrics
    """Of the last epoch's model on the validation images."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a model, from the beginning or, with `resume`, from a run's newest checkpoint.

    Everything that can be refused is refused before the first batch and before anything is written.
    `force` replaces a run that is in `config.out`; `quiet` shows no progress (standard error). Under
    `torchrun` the processes train together, and the first of them writes and calls `callbacks`.
    Raises UserError for settings or data that cannot work, and when the loss is no longer finite: the
    checkpoints of the epochs before are then left as they were.
    """
    check_batches(config, started_processes())  # before processes wait for each other
    with process_group(config.device) as processes, _memory_errors(config.batch_size), reproducible():
        return _Run(config, processes, resume=resume, force=force, quiet=quiet, callbacks=callbacks).run()


@contextmanager
def _memory_errors(batch_size: int) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors into one line with a remedy."""
    try:
        yield
    except RuntimeError as error:
        known = "allocate memory", "out of memory"  # PyTorch's on a CPU, and Triton's
        if not (isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in known)):
            raise
        fewer = max(1, batch_size // 2)
        raise UserError(
            f"not enough memory for steps of {counted(batch_size, 'image')}: --batch-size {fewer} or --set "
            "accumulate=2 needs less"
        ) from error


def _accuracies(entry: dict[str, Any]) -> str:
    """The accuracies of an epoch in words."""
    if "val_miou" in entry:
        pixels, miou = entry["val_pixel_accuracy"], entry["val_miou"]
        return f"training {entry['train_pixel_accuracy']:.1%}, validation {pixels:.1%} of pixels, mIoU {miou:.2%}"
    return f"training {entry['train_top1']:.1%}, validation {entry['val_top1']:.2%}"


class _Run:
    """One run. Making it checks everything; nothing is written until `run`."""

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        *,
        resume: bool,
        force: bool,
        quiet: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.resume = config, resume
        self.configs = config.phase_configs()
        self.interruptible = Interruptible()
        self.folder = RunFolder(config.out)
        if resume:
            self.folder.check_same_settings(config)
        else:
            self.folder.check_unused(force)
        device = choose_device(config.device, processes)
        self.context = RunContext(device=device, processes=processes, quiet=quiet or not processes.first)
        threads = config.threads or min(torch.get_num_threads(), allowed_cores())
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        check_models(self.configs)
        self.callbacks = [*self._loggers(), *callbacks] if processes.first else []
        self.data = open_run_data(config, self.context)
        if resume:
            self.folder.check_data(self.data.identity)
        self.teachers = check_phases(self.configs, self.data, processes)
        self.progress = self.folder.progress() if resume else Progress()
        self.phase = self._phase(self.progress.phase, None)
        if resume and self.folder.resume.exists():
            self.folder.load(self.phase.state)
            if self.progress.epoch:
                self.folder.check_checkpoints()
        elif config.init is not None:
            self.phase.start(config.init)
        processes.wait()  # until all have found the folder as it was

    def _loggers(self) -> list[Callback]:
        """The callbacks that settings ask for."""
        loggers: list[Callback] = []
        if self.config.tensorboard:
            loggers.append(TensorBoardLog())
        if self.config.wandb:
            loggers.append(WandbLog(quiet=self.context.quiet))
        return loggers

    @property
    def _epochs_done(self) -> int:
        """Completed epochs of all phases."""
        return self._epochs_before + self.progress.epoch

    @property
    def _epochs_before(self) -> int:
        """Epochs of the phases before this one."""
        return sum(config.epochs for config in self.configs[: self.progress.phase])

    @property
    def _epochs(self) -> int:
        """Epochs of all phases."""
        return sum(config.epochs for config in self.configs)

    def run(self) -> Result:
        """Train to the end."""
        with self.folder.locked() if self.context.processes.first else nullcontext():
            return self._run()

    def _run(self) -> Result:
        self._ask_teacher()
        if self.context.processes.first:
            if self.resume:
                self.folder.rewind_log(self._epochs_done)
            else:
                self.folder.create(self.config)
            self.folder.write_data(self.data.identity)
        info = RunInfo(config=self.config, folder=self.folder.path, epochs_done=self._epochs_done)
        metrics = None
        with self.interruptible, following(self.callbacks, info):
            while True:
                while self.progress.epoch < self.phase.config.epochs and not self._stalled():
                    metrics = self._epoch()
                if self.progress.phase == len(self.configs) - 1:
                    break
                self._next_phase()
                self._ask_teacher()
            metrics = metrics or self._validate()
        self.context.processes.wait()
        return Result(last=self.folder.last, best=self.folder.best, log=tuple(self.folder.entries()), metrics=metrics)

    def _ask_teacher(self) -> None:
        """Find or make what the phase keeps of its teacher's outputs."""
        phase, data = self.phase, self.data
        if phase.teacher is not None and phase.config.teacher_outputs is not None:
            phase.outputs = teacher_outputs(phase.teacher, phase.config, data.train, data.preprocess, self.context)

    def _phase(self, index: int, before: Phase | None) -> Phase:
        torch.manual_seed(seed_for(self.config.seed))
        return Phase(self.configs[index], self.data, self.teachers[index], self.context, before)

    def _next_phase(self) -> None:
        """Begin the next phase.

        Until its first `save` a resumed run finds the one before.
        """
        before = self.progress.phase
        if self.context.processes.first:
            self.folder.keep(before, self.configs[before + 1].start)
        self.context.processes.wait()
        self.progress = Progress(phase=before + 1)
        self.phase.step.release()
        self.phase = self._phase(before + 1, self.phase)
        self.phase.start(self.folder.kept(before))
        self._save()

    def _stalled(self) -> bool:
        """Whether the phase ends early, because its validation accuracy no longer rises; then said."""
        patience = self.phase.config.patience
        if not patience or self.progress.stale < patience:
            return False
        self.context.say(
            f"stopped after epoch {self._epochs_done}: {counted(patience, 'epoch')} without a better validation "
            "accuracy; "
            "--set patience=0 trains all epochs"
        )
        return True

    def _epoch(self) -> AnyMetrics:
        """Train and evaluate one epoch, or the rest of it."""
        phase, number = self.phase, self._epochs_done
        meter = EpochMeter(self.progress, self.context, phase.config.batch_size, phase.batches.steps)
        rate = self._train_epoch(number, meter)
        seconds, waited = meter.seconds, meter.waited
        if phase.ema is not None:
            phase.ema.measure(phase.batches, number, phase.autocast())
        metrics = self._validate()
        self._finish_epoch(metrics, self._entry(number, meter, seconds, waited, rate, metrics))
        return metrics

    def _train_epoch(self, number: int, meter: EpochMeter) -> float:
        """Take the steps of an epoch that are left. The last learning rate."""
        batches, config, first = self.phase.batches, self.phase.config, self.progress.step
        saved, rate = time.perf_counter(), 0.0
        self.phase.model.train()
        with self._bar(number) as bar:
            for step, batch in enumerate(meter.waiting(batches.drawn(number, first)), first):
                if self._asked_to_end(meter, step):
                    self._save_within(meter, step)
                    self.interruptible.end()
                done = self.progress.epoch * batches.steps + step
                rate = learning_rate(config, done, batches.steps)
                outcome = self._step(batch, seed_for(config.seed, number, step, 2), done)
                meter.add(outcome, self.interruptible.asked)
                if self.context.device.type == "cpu" or step % CUDA_CHECK_STEPS == 0:
                    self._check_finite(meter, number, step)
                    left = config.epochs - self.progress.epoch
                    bar.set_postfix_str(meter.describe(step + 1, left), refresh=False)
                bar.update()
                if time.perf_counter() - saved > 60 * config.save_minutes and step + 1 < batches.steps:
                    self._check_finite(meter, number, step)
                    saved = time.perf_counter()
                    self._save_within(meter, step + 1)
        self._check_finite(meter, number, batches.steps - 1)
        return rate

    def _asked_to_end(self, meter: EpochMeter, step: int) -> bool:
        """Whether a signal asks to end before `step`.

        All processes end there, whichever got the signal: otherwise one would wait for another that is gone.
        """
        if self.context.processes.size == 1:
            return self.interruptible.asked
        return (self.context.device.type == "cpu" or step % CUDA_CHECK_STEPS == 0) and meter.asked_to_end

    def _step(self, batch: Batch, seed: int, done: int) -> Tensor:
        """Take optimiser step number `done` of the phase, from 0; see `TrainStep`."""
        return self.phase.step(batch, seed, done)

    def _entry(
        self, number: int, meter: EpochMeter, seconds: float, waited: float, rate: float, metrics: AnyMetrics
    ) -> dict[str, Any]:
        """Return the line of log.jsonl for epoch `number`, from 0.

        seconds: time it took to train. waited: the share of that spent waiting for data.
        """
        return {
            "epoch": number + 1,
            **({"phase": self.progress.phase} if self.config.phases else {}),
            "lr": rate,
            "train_loss": meter.loss(meter.steps),
            "train_top1" if isinstance(metrics, Metrics) else "train_pixel_accuracy": meter.top1(meter.steps),
            **metrics.to_log(),
            "seconds": round(seconds, 3),
            "images_per_second": round(meter.steps * meter.batch_size / seconds, 1),
            "waited_for_data": round(waited, 4),
            **self.phase.monitor.measure(),
        }

    def _finish_epoch(self, metrics: AnyMetrics, entry: dict[str, Any]) -> None:
        """Log and save; `RunFolder.save` comes last, see `run_folder`."""
        progress, model = self.progress, self.phase.result
        # A weight that is not a number hides behind the sign of a binary layer: look at the weights too.
        weights = self.phase.model.parameters()
        if not bool(torch.stack([p.isfinite().all() for p in weights]).all()):
            raise self._diverged(entry["epoch"], self.phase.batches.steps, "weights that are not finite")
        score, gain = merit(entry)
        improved = (score, gain) > (progress.best, -progress.best_loss)
        self.progress = Progress(
            phase=progress.phase,
            epoch=progress.epoch + 1,
            best=score if improved else progress.best,
            best_loss=-gain if improved else progress.best_loss,
            stale=0 if score > progress.best else progress.stale + 1,
        )
        if isinstance(metrics, Metrics):
            model.calibration = fit(metrics.logits, metrics.labels)
        if self.context.processes.first:
            self.folder.append_log(entry)
            save_checkpoint(model, self.folder.last)
            if improved:
                save_checkpoint(model, self.folder.best)
        for callback in self.callbacks:
            callback.on_epoch_end(entry, model)
        self._save()
        if not self.context.quiet:
            tqdm.write(
                f"epoch {entry['epoch']}/{self._epochs}: loss {entry['train_loss']:.3f}, "
                f"{_accuracies(entry)}"
                f"{' (best)' if improved else ''}, {entry['images_per_second']:.0f} images/s, "
                f"{entry['waited_for_data']:.0%} of the time waiting for data",
                file=sys.stderr,
            )

    def _save_within(self, meter: EpochMeter, steps: int) -> None:
        """Save within an epoch, after `steps` steps of it, if anything is new."""
        if steps > self.progress.step:
            meter.store(self.progress, steps)
            self._save()

    def _save(self) -> None:
        if self.context.processes.first:
            self.folder.save(self.phase.state, self.progress)

    def _validate(self) -> AnyMetrics:
        result = self.phase.result
        alone = self.context.processes.size == 1  # of several processes, none may leave the others waiting
        check = self.interruptible.check if alone else lambda *_: None
        try:
            return validate(result, self.data, self.context.processes, self.phase.autocast, check)
        except NonFiniteLogitsError:
            step = self.phase.batches.steps
            raise self._diverged(self.progress.epoch + 1, step, "weights that are not finite") from None

    def _check_finite(self, meter: EpochMeter, epoch: int, step: int) -> None:
        if not meter.finite:
            raise self._diverged(epoch + 1, step + 1, "a loss that is not finite")

    def _diverged(self, epoch: int, step: int, what: str) -> UserError:
        kept = f"the last good checkpoint is {self.folder.last}" if self._epochs_done else "no epoch was completed"
        return UserError(
            f"training stopped at epoch {epoch}, step {step}: {what}; {kept}; "
            f"try a lower --lr (it was {self.phase.config.lr:g}) or --set clip_grad=1"
        )

    def _bar(self, number: int) -> tqdm[Any]:
        return tqdm(
            total=self.phase.batches.steps,
            initial=self.progress.step,
            desc=f"epoch {number + 1}/{self._epochs}",
            unit="step",
            leave=False,
            disable=self.context.quiet or None,  # None: shown on terminals only
            mininterval=0.5,
        )
