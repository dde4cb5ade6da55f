"""The training loop: from a `TrainConfig` to a run folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.metrics import Metrics, NonFiniteLogitsError
from ..errors import UserError
from ..models import save_checkpoint
from .augment import seed_for
from .compilation import compile_blocks
from .config import TrainConfig
from .distributed import Processes, choose_device, process_group
from .interrupt import Interruptible
from .losses import total_loss
from .optim import learning_rate, set_learning_rate
from .phase import Phase, check_models, check_phases
from .run_data import open_run_data
from .run_folder import Progress, RunFolder, State
from .teacher_outputs import teacher_outputs
from .tensorboard import TensorBoardLog, check_installed
from .validation import validate

CUDA_CHECK_STEPS = 20
"""Steps between looks at the loss on a GPU, each of which waits for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished run leaves."""

    last: Path
    best: Path
    log: tuple[dict[str, Any], ...]
    """The lines of log.jsonl."""
    metrics: Metrics
    """Of the last epoch's model on the validation images."""


def train(config: TrainConfig, *, resume: bool = False, force: bool = False, quiet: bool = False) -> Result:
    """Train a model, from the beginning or, with `resume`, from a run's newest checkpoint.

    Everything that can be refused is refused before the first batch and before anything is written.
    `force` replaces a run that is in `config.out`; `quiet` shows no progress (standard error). Under
    `torchrun` the processes train together, and the first of them writes.
    Raises UserError for settings or data that cannot work, and when the loss is no longer finite: the
    checkpoints of the epochs before are then left as they were.
    """
    with process_group(config.device) as processes, _memory_errors(config):
        return _Run(config, processes, resume=resume, force=force, quiet=quiet or not processes.first).run()


@contextmanager
def _memory_errors(config: TrainConfig) -> Iterator[None]:
    """Turn PyTorch's errors of too little memory, of whatever type, into one line that says what needs less."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        fewer = max(1, config.batch_size // 2)
        raise UserError(
            f"not enough memory for steps of {config.batch_size} images: "
            f"--batch-size {fewer} or --set accumulate=2 needs less"
        ) from error


class _Run:
    """One run. Making it checks everything; nothing is written until `run`."""

    def __init__(self, config: TrainConfig, processes: Processes, *, resume: bool, force: bool, quiet: bool) -> None:
        self.config, self.processes, self.resume, self.quiet = config, processes, resume, quiet
        self.configs = config.phase_configs()
        self.interruptible = Interruptible()
        self.board: TensorBoardLog | None = None
        self.folder = RunFolder(config.out)
        if resume:
            self.folder.check_same_settings(config)
        else:
            self.folder.check_unused(force)
        self.device = choose_device(config.device, processes)
        if config.threads:
            torch.set_num_threads(config.threads)
        check_models(self.configs)
        if config.tensorboard:
            check_installed()
        self.images = open_run_data(config, processes, quiet)
        if resume:
            self.folder.check_data(self.images.identity)
        self.teachers = check_phases(self.configs, self.images, processes)
        self.progress = self.folder.progress() if resume else Progress()
        self.phase = self._phase(self.progress.phase, None)
        if resume and self.folder.resume.exists():
            self.folder.load(self._state())
        elif config.init is not None:
            self.phase.start(config.init, quiet)
        processes.wait()  # until all have found the folder as it was

    def run(self) -> Result:
        with self.folder.locked() if self.processes.first else nullcontext():
            return self._run()

    def _run(self) -> Result:
        self._ask_teacher()
        if self.processes.first:
            if self.resume:
                self.folder.rewind_log(self._epochs_before() + self.progress.epoch)
            else:
                self.folder.create(self.config)
            self.folder.write_data(self.images.identity)
        metrics = None
        with self.interruptible, self._board():
            while True:
                while self.progress.epoch < self.phase.config.epochs:
                    metrics = self._epoch()
                if self.progress.phase == len(self.configs) - 1:
                    break
                self._next_phase()
                self._ask_teacher()
            metrics = metrics or self._validate()
        self.processes.wait()
        return Result(last=self.folder.last, best=self.folder.best, log=tuple(self.folder.entries()), metrics=metrics)

    @contextmanager
    def _board(self) -> Iterator[None]:
        if not (self.config.tensorboard and self.processes.first):
            yield
            return
        self.board = TensorBoardLog(self.folder.path, self._epochs_before() + self.progress.epoch)
        try:
            yield
        finally:
            self.board.close()

    def _ask_teacher(self) -> None:
        """Find or make what the phase keeps of its teacher's outputs."""
        phase, images = self.phase, self.images
        if phase.teacher is not None and phase.config.teacher_outputs is not None:
            phase.outputs = teacher_outputs(
                phase.teacher, phase.config, images.train, images.preprocess, self.device, self.processes, self.quiet
            )

    def _phase(self, index: int, before: Phase | None) -> Phase:
        torch.manual_seed(seed_for(self.config.seed))
        config = self.configs[index]
        phase = Phase(config, self.images, self.teachers[index], self.device, self.processes, before)
        if config.compile:
            rows = config.batch_size // config.accumulate // self.processes.size
            compile_blocks(phase.model, rows, phase.autocast(), self.quiet)
        return phase

    def _next_phase(self) -> None:
        """Begin the next phase; until its first `save` the one before is what a resumed run finds."""
        before = self.progress.phase
        if self.processes.first:
            self.folder.keep(before, self.configs[before + 1].start)
        self.processes.wait()
        self.progress = Progress(phase=before + 1)
        self.phase = self._phase(before + 1, self.phase)
        self.phase.start(self.folder.kept(before), self.quiet)
        self._save()

    def _epochs_before(self) -> int:
        """Epochs of the phases before this one."""
        return sum(config.epochs for config in self.configs[: self.progress.phase])

    def _epoch(self) -> Metrics:
        progress, batches, config = self.progress, self.phase.batches, self.phase.config
        number = self._epochs_before() + progress.epoch
        begin = saved = time.perf_counter() - progress.seconds
        sums = torch.tensor([progress.loss_sum, progress.correct], dtype=torch.float64, device=self.device)
        rate = 0.0
        self.phase.model.train()
        with self._bar(number) as bar:
            for step, (images, labels, which) in enumerate(batches.numbered(number, progress.step), progress.step):
                done = progress.epoch * batches.steps + step
                rate = learning_rate(config, done, batches.steps)
                if self.interruptible.asked:
                    self._save_within(sums, step, time.perf_counter() - begin)
                    self.interruptible.check()
                loss, right = self._step(images, labels, rate, seed_for(config.seed, number, step, 2), done, which)
                sums += self.processes.sum(torch.stack([loss.double() / self.processes.size, right.double()]))
                if self.device.type == "cpu" or step % CUDA_CHECK_STEPS == 0:
                    self._check_finite(sums, number, step)
                    seen = (step + 1) * config.batch_size
                    pace = (time.perf_counter() - begin) / (step + 1)
                    left = (config.epochs - progress.epoch) * batches.steps - step - 1
                    bar.set_postfix_str(
                        f"loss {sums[0].item() / (step + 1):.3f}, accuracy {sums[1].item() / seen:.1%}, "
                        f"{_clock(pace * left)} left",
                        refresh=False,
                    )
                bar.update()
                now = time.perf_counter()
                if now - saved > 60 * config.save_minutes and step + 1 < batches.steps:
                    self._check_finite(sums, number, step)
                    saved = now
                    self._save_within(sums, step + 1, now - begin)
        self._check_finite(sums, number, batches.steps - 1)
        seconds = time.perf_counter() - begin
        if self.phase.ema is not None:
            self.phase.ema.measure(batches, number, self.phase.autocast())
        metrics = self._validate()
        seen = batches.steps * config.batch_size
        self._finish_epoch(
            metrics,
            {
                "epoch": number + 1,
                **({"phase": progress.phase} if self.config.phases else {}),
                "lr": rate,
                "train_loss": sums[0].item() / batches.steps,
                "train_top1": sums[1].item() / seen,
                "val_loss": metrics.cross_entropy,
                "val_top1": metrics.top1,
                "val_top5": metrics.top5,
                "seconds": round(seconds, 3),
                "images_per_second": round(seen / seconds, 1),
                **self.phase.monitor.measure(),
            },
        )
        return metrics

    def _step(
        self, images: Tensor, labels: Tensor, rate: float, seed: int, done: int, which: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Optimiser step number `done`, from 0, with the training images `which`. This process's loss, and how many
        images were right; scalars."""
        phase, config = self.phase, self.phase.config
        total = config.epochs * phase.batches.steps
        set_learning_rate(phase.optimizer, rate)
        phase.optimizer.zero_grad(set_to_none=True)
        loss_sum, right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        parts = list(zip(*(values.chunk(config.accumulate) for values in (images, labels, which))))
        for index, (x, y, numbers) in enumerate(parts):
            part_seed = seed_for(seed, index) if index else seed
            torch.manual_seed(part_seed)  # stochastic depth draws from the global generator
            if phase.mixing is not None:
                x, y = phase.mixing(x, y, part_seed)
            with self._sending(index == len(parts) - 1):
                with phase.autocast():
                    teacher_logits = phase.teach(x, numbers)
                    logits = phase.network(x)
                    loss = total_loss(config, phase.model, logits, y, teacher_logits, done / total) / len(parts)
                loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += loss.detach()
            right += (logits.detach().argmax(dim=1) == (y if y.ndim == 1 else y.argmax(dim=1))).sum()
        if config.clip_grad:
            torch.nn.utils.clip_grad_norm_(phase.model.parameters(), config.clip_grad)
        phase.optimizer.step()
        if phase.ema is not None:
            phase.ema.update(phase.model, done + 1)
        return loss_sum, right

    def _sending(self, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients after the last part of a batch only."""
        network = self.phase.network
        if last or not isinstance(network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def _finish_epoch(self, metrics: Metrics, entry: dict[str, Any]) -> None:
        """Log and save; `RunFolder.save` comes last, see `run_folder`."""
        progress, model = self.progress, self.phase.result
        # A weight that is not a number hides behind the sign of a binary layer: look at the weights too.
        weights = self.phase.model.parameters()
        if not all(bool(p.isfinite().all()) for p in weights):
            raise self._diverged(entry["epoch"], self.phase.batches.steps, "weights that are not finite")
        improved = metrics.top1 > progress.best
        self.progress = Progress(phase=progress.phase, epoch=progress.epoch + 1, best=max(progress.best, metrics.top1))
        if self.processes.first:
            self.folder.append_log(entry)
            if self.board is not None:
                self.board.write(entry)
            save_checkpoint(model, self.folder.last)
            if improved:
                save_checkpoint(model, self.folder.best)
        self._save()
        if not self.quiet:
            tqdm.write(
                f"epoch {entry['epoch']}/{self._epochs()}: loss {entry['train_loss']:.3f}, "
                f"training {entry['train_top1']:.1%}, validation {entry['val_top1']:.2%}"
                f"{' (best)' if improved else ''}, {entry['images_per_second']:.0f} images/s",
                file=sys.stderr,
            )

    def _state(self) -> State:
        ema = self.phase.ema
        return State(self.phase.model, self.phase.optimizer, ema.module if ema else None, self.phase.monitor)

    def _save_within(self, sums: Tensor, steps: int, seconds: float) -> None:
        """Save what `--resume` needs after `steps` steps of the epoch under way, if there is anything new."""
        progress = self.progress
        if steps > progress.step:
            progress.step, progress.seconds = steps, seconds
            progress.loss_sum, progress.correct = sums[0].item(), int(sums[1].item())
            self._save()

    def _save(self) -> None:
        if self.processes.first:
            self.folder.save(self._state(), self.progress)

    def _validate(self) -> Metrics:
        result, check = self.phase.result, self.interruptible.check
        try:
            return validate(result, self.images, self.processes, self.phase.autocast, check)
        except NonFiniteLogitsError:
            step = self.phase.batches.steps
            raise self._diverged(self.progress.epoch + 1, step, "weights that are not finite") from None

    def _check_finite(self, sums: Tensor, epoch: int, step: int) -> None:
        if not bool(sums.isfinite().all()):
            raise self._diverged(epoch + 1, step + 1, "a loss that is not finite")

    def _diverged(self, epoch: int, step: int, what: str) -> UserError:
        some = self._epochs_before() + self.progress.epoch
        kept = f"the last good checkpoint is {self.folder.last}" if some else "no epoch was completed"
        return UserError(
            f"training stopped at epoch {epoch}, step {step}: {what}; {kept}; "
            f"try a lower --lr (it was {self.phase.config.lr:g}) or --set clip_grad=1"
        )

    def _epochs(self) -> int:
        return sum(config.epochs for config in self.configs)

    def _bar(self, number: int) -> tqdm[Any]:
        return tqdm(
            total=self.phase.batches.steps,
            initial=self.progress.step,
            desc=f"epoch {number + 1}/{self._epochs()}",
            unit="step",
            leave=False,
            disable=self.quiet or None,  # None: shown on terminals only
            mininterval=0.5,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
