"""The training loop: from a `TrainConfig` to a run folder."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data import Dataset, open_dataset
from ..errors import UserError
from ..evaluate import Floats, Metrics, evaluate
from ..image import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from ..models import BHViT, create_model, load_checkpoint, regularisation_loss, save_checkpoint
from ..switches import fields_of
from .config import TrainConfig
from .interrupt import Interruptible
from .loader import Batches, cached, seed_for
from .losses import total_loss
from .optim import learning_rate, make_optimizer
from .run_folder import Progress, RunFolder
from .teacher import Teacher, load_teacher

EVALUATION_BATCH = 256
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
    `force` replaces a run that is in `config.out`; `quiet` shows no progress (standard error).
    Raises UserError for settings or data that cannot work, and when the loss is no longer finite: the
    checkpoints of the epochs before are then left as they were.
    """
    return _Run(config, resume=resume, force=force, quiet=quiet).run()


class _Run:
    """One run's parts. Making it checks everything; nothing is written until `run`."""

    def __init__(self, config: TrainConfig, *, resume: bool, force: bool, quiet: bool) -> None:
        self.config, self.resume, self.quiet = config, resume, quiet
        self.interruptible = Interruptible()
        self.folder = RunFolder(config.out)
        if resume:
            self.folder.refuse_other(config)
        else:
            self.folder.refuse_used(force)
        self.device = _device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(seed_for(config.seed))
        self.preprocess: Preprocess
        # The model before the data: a wrong name or size is found at once, images take a while.
        rehearsal = create_model(config.model, num_classes=2, **config.model_settings())
        if config.regularisation:
            regularisation_loss(rehearsal)
        self.train_set = self._open("train", None)
        self.validation_set = self._open("validation", self.train_set.class_names)
        self.model = self._model()
        self.teacher = self._teacher()
        self.batches = Batches(self.train_set, self.preprocess, config, self.device)
        validation = cached(self.validation_set, self.preprocess, config)
        self.validation_pixels = None if validation is None else validation.numpy()
        self.optimizer = make_optimizer(self.model, config)
        self.progress = self.folder.load(self.model, self.optimizer) if resume else Progress()

    def run(self) -> Result:
        if self.resume:
            self.folder.rewind_log(self.progress.epoch)
        else:
            self.folder.create(self.config)
        metrics = None
        with self.interruptible:
            while self.progress.epoch < self.config.epochs:
                metrics = self._epoch()
            metrics = metrics or self._validate()
        return Result(last=self.folder.last, best=self.folder.best, log=tuple(self.folder.entries()), metrics=metrics)

    def _epoch(self) -> Metrics:
        progress = self.progress
        number = progress.epoch
        begin = saved = time.perf_counter() - progress.seconds
        loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        correct = torch.tensor(progress.correct, device=self.device)
        rate = 0.0
        self.model.train()
        with self._bar(number) as bar:
            for step, (images, labels) in enumerate(self.batches.epoch(number, progress.step), progress.step):
                rate = learning_rate(self.config, number * self.batches.steps + step, self.batches.steps)
                self.interruptible.check()
                loss, right = self._step(images, labels, rate, seed_for(self.config.seed, number, step, 2))
                loss_sum += loss
                correct += right
                if self.device.type == "cpu" or step % CUDA_CHECK_STEPS == 0:
                    self._refuse_diverged(loss_sum, number, step)
                    seen = (step + 1) * self.config.batch_size
                    pace = (time.perf_counter() - begin) / (step + 1)
                    left = (self.config.epochs - number) * self.batches.steps - step - 1
                    bar.set_postfix_str(
                        f"loss {loss_sum.item() / (step + 1):.3f}, accuracy {correct.item() / seen:.1%}, "
                        f"run {_clock(pace * left)} left",
                        refresh=False,
                    )
                bar.update()
                now = time.perf_counter()
                if now - saved > 60 * self.config.save_minutes and step + 1 < self.batches.steps:
                    self._refuse_diverged(loss_sum, number, step)
                    saved, progress.step, progress.seconds = now, step + 1, now - begin
                    progress.loss_sum, progress.correct = loss_sum.item(), int(correct.item())
                    self.folder.save(self.model, self.optimizer, progress)
        self._refuse_diverged(loss_sum, number, self.batches.steps - 1)
        seconds = time.perf_counter() - begin
        metrics = self._validate()
        seen = self.batches.steps * self.config.batch_size
        self._finish_epoch(
            metrics,
            {
                "epoch": number + 1,
                "lr": rate,
                "train_loss": loss_sum.item() / self.batches.steps,
                "train_top1": correct.item() / seen,
                "val_loss": metrics.cross_entropy,
                "val_top1": metrics.top1,
                "val_top5": metrics.top5,
                "seconds": round(seconds, 3),
                "images_per_second": round(seen / seconds, 1),
            },
        )
        return metrics

    def _step(self, images: Tensor, labels: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
        """One optimiser step. The loss, and how many images were classified right; scalars on the device."""
        torch.manual_seed(seed)  # stochastic depth draws from the global generator
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast():
            teacher_logits = self.teacher(images) if self.teacher else None
            logits = self.model(images)
            loss = total_loss(self.config, self.model, logits, labels, teacher_logits)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def _finish_epoch(self, metrics: Metrics, entry: dict[str, Any]) -> None:
        """Log and save; `RunFolder.save` comes last, see `run_folder`."""
        # A weight that is not a number hides behind the sign of a binary layer: look at the weights too.
        finite = np.isfinite(metrics.logits).all() and all(bool(p.isfinite().all()) for p in self.model.parameters())
        if not finite:
            raise self._diverged(entry["epoch"], self.batches.steps, "weights that are not finite")
        best = max(self.progress.best, metrics.top1)
        improved = metrics.top1 > self.progress.best
        self.progress = Progress(
            epoch=entry["epoch"], best=best, best_epoch=entry["epoch"] if improved else self.progress.best_epoch
        )
        self.folder.append_log(entry)
        save_checkpoint(self.model, self.folder.last)
        if improved:
            save_checkpoint(self.model, self.folder.best)
        self.folder.save(self.model, self.optimizer, self.progress)
        if not self.quiet:
            tqdm.write(
                f"epoch {entry['epoch']}/{self.config.epochs}: loss {entry['train_loss']:.3f}, "
                f"training {entry['train_top1']:.1%}, validation {entry['val_top1']:.2%}"
                f"{' (best)' if improved else ''}, {entry['images_per_second']:.0f} images/s",
                file=sys.stderr,
            )

    def _validate(self) -> Metrics:
        self.model.eval()

        def predict(images: Floats) -> Floats:
            with torch.no_grad(), self._autocast():
                logits = self.model(torch.from_numpy(images).to(self.device))
            result: Floats = logits.float().cpu().numpy()
            return result

        return evaluate(
            predict,
            self.validation_set,
            self.preprocess,
            batch_size=EVALUATION_BATCH,
            pixels=self.validation_pixels,
            progress=self.interruptible.check,
        )

    def _refuse_diverged(self, loss_sum: Tensor, epoch: int, step: int) -> None:
        if not bool(loss_sum.isfinite()):
            raise self._diverged(epoch + 1, step + 1, "a loss that is not finite")

    def _diverged(self, epoch: int, step: int, what: str) -> UserError:
        kept = f"the last good checkpoint is {self.folder.last}" if self.progress.epoch else "no epoch was completed"
        return UserError(
            f"training stopped at epoch {epoch}, step {step}: {what}; {kept}; "
            f"try a lower --lr (it was {self.config.lr:g}) or --set clip_grad=1"
        )

    def _model(self) -> BHViT:
        config = self.config
        classes = self.train_set.class_names
        model = create_model(
            config.model, num_classes=len(classes), drop_path=config.drop_path, **config.model_settings()
        )
        rgb = config.channels == 3
        self.preprocess = Preprocess(
            size=model.spec.img_size,
            channels=config.channels,
            mean=IMAGENET_MEAN if rgb else (0.5,) * config.channels,
            std=IMAGENET_STD if rgb else (0.25,) * config.channels,
            crop=config.crop,
            interpolation=config.interpolation,
        )
        model.class_names, model.preprocess = classes, self.preprocess
        if config.init is not None and not self.resume:
            start = load_checkpoint(config.init)
            if start.spec != model.spec:
                old, new = fields_of(start.spec), fields_of(model.spec)
                changed = ", ".join(
                    f"{key} {old.get(key)!r} (now {new.get(key)!r})"
                    for key in old | new
                    if old.get(key) != new.get(key)
                )
                raise UserError(f"cannot start from {config.init}, its model has another {changed}")
            model.load_state_dict(start.state_dict())
        return model.to(self.device)

    def _teacher(self) -> Teacher | None:
        teacher = load_teacher(self.config, self.preprocess, self.train_set.class_names)
        return teacher.to(self.device) if teacher else None

    def _open(self, split: str, class_names: tuple[str, ...] | None) -> Dataset:
        config = self.config
        return open_dataset(
            config.data,
            split,
            class_names=class_names,
            classes_file=config.classes,
            strict=config.strict,
            test_fraction=config.test_fraction,
            warn=None if not self.quiet else lambda line: None,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.config.precision
        if precision == "float32" or (precision == "auto" and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _bar(self, number: int) -> tqdm[Any]:
        return tqdm(
            total=self.batches.steps,
            initial=self.progress.step,
            desc=f"epoch {number + 1}/{self.config.epochs}",
            unit="step",
            leave=False,
            disable=self.quiet or None,  # None: shown on terminals only
            mininterval=0.5,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise UserError(f"there is no device {name!r} here; there is {', '.join(available)}") from error
    return device


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
