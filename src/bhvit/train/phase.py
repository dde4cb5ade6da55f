"""What a run is made of: the images of all its phases, and the parts of one phase."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data.dataset import Dataset, open_dataset
from ..errors import UserError
from ..image import Preprocess
from ..models import BHViT, create_model, load_checkpoint, model_spec
from .augment import Mixing
from .compilation import refuse_old_torch
from .config import TrainConfig
from .distributed import Processes, Share, spread
from .ema import Average
from .flip_monitor import Monitor
from .loader import Batches, cached, refuse_too_few
from .losses import refuse_idle
from .optim import make_optimizer
from .teacher import Teacher, load_teacher
from .teacher_outputs import TeacherOutputs
from .warm_start import refuse_other_architecture, start_from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a run, the same in all its phases."""

    train: Dataset
    validation: Dataset
    """What this process evaluates of them."""
    labels: npt.NDArray[np.int64]
    """Of all validation images, (N,)."""
    preprocess: Preprocess
    pixels: npt.NDArray[np.uint8] | None
    """The validation images decoded, (n, H, W, C), where they fit in memory."""


def open_images(config: TrainConfig, processes: Processes, quiet: bool) -> Images:
    """Find and check the images. Raises UserError."""
    with _first_before_others(processes):  # it downloads what the others then find
        train = _open(config, "train", None, quiet)
        validation = _open(config, "validation", train.class_names, quiet)
    # Every n-th image each: every image counts once, whatever the number of processes.
    own = validation.subset(range(processes.rank, len(validation), processes.size))
    size = model_spec(config.model, **config.model_settings()).img_size
    preprocess = Preprocess.usual(size, config.channels, crop=config.crop, interpolation=config.interpolation)
    pixels = cached(own, preprocess, config) if len(own) else None
    return Images(
        train=train,
        validation=own,
        labels=validation.labels,
        preprocess=preprocess,
        pixels=None if pixels is None else pixels.numpy(),
    )


def _open(config: TrainConfig, split: str, class_names: tuple[str, ...] | None, quiet: bool) -> Dataset:
    return open_dataset(
        config.data,
        split,
        class_names=class_names,
        classes_file=config.classes,
        strict=config.strict,
        test_fraction=config.test_fraction,
        warn=None if not quiet else lambda line: None,
    )


@contextmanager
def _first_before_others(processes: Processes) -> Iterator[None]:
    if not processes.first:
        processes.wait()
    yield
    if processes.first:
        processes.wait()


class Phase:
    """The model of a phase and what trains it. Images that the phase before has decoded are not decoded again."""

    def __init__(
        self,
        config: TrainConfig,
        images: Images,
        teacher: Teacher | None,
        device: torch.device,
        processes: Processes,
        before: Phase | None = None,
    ) -> None:
        self.config, self.device = config, device
        share = Share(config.batch_size, config.accumulate, processes)
        self.model = _model(config, images)
        self.teacher = teacher.to(device) if teacher else None
        self.outputs: TeacherOutputs | None = None
        """The teacher's outputs, where they are kept."""
        decoded = before.batches.pixels if before else None
        self.batches: Batches = Batches(images.train, images.preprocess, config, device, share, decoded)
        self.mixing = Mixing(config, len(images.train.class_names)) if config.mixing else None
        self.model.to(device)
        self.network: nn.Module = spread(self.model, share, device)
        """What is called in training: the model, or the model as one of several processes has it."""
        self.optimizer = make_optimizer(self.model, config)
        self.average = Average(self.model, config) if config.ema else None
        self.monitor = Monitor(self.model)

    def start(self, source: object, quiet: bool) -> None:
        """Begin with the weights of a checkpoint and say what was changed. Raises UserError if they do not fit."""
        for note in start_from(self.model, load_checkpoint(str(source)), source):
            if not quiet:
                print(note, file=sys.stderr)
        self.monitor.load({})

    def teach(self, images: Tensor, which: Tensor) -> Tensor | None:
        """The teacher's logits (B, classes) for the training images `which`, as augmented, or as kept."""
        if self.outputs is not None:
            return self.outputs[which].to(self.device)
        logits: Tensor | None = self.teacher(images) if self.teacher is not None else None
        return logits

    @property
    def result(self) -> BHViT:
        """The model that is evaluated and saved: the average, if there is one."""
        return self.average.module if self.average else self.model

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        precision = self.config.precision
        if precision == "float32" or (precision == "auto" and self.device.type == "cpu"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def check_models(configs: list[TrainConfig]) -> None:
    """Before any image is opened, which takes a while. Raises UserError for a model that cannot be or to train."""
    if configs[0].layer_decay < 1 and configs[0].init is None:
        raise UserError(
            "a layer_decay below 1, as the recipe finetune has it, is for models that were trained before: "
            "give --init CHECKPOINT (or cifar10), or --set layer_decay=1"
        )
    if configs[0].compile:
        refuse_old_torch()
    before = None
    for index, config in enumerate(configs):
        rehearsal = create_model(config.model, num_classes=2, **config.model_settings())
        refuse_idle(config, rehearsal)
        if before is not None:
            refuse_other_architecture(before, rehearsal.spec, f"phases.{index - 1}")
        before = rehearsal.spec


def check_phases(configs: list[TrainConfig], images: Images, processes: Processes) -> list[Teacher | None]:
    """The teacher of each phase, loaded once. Raises UserError for a phase that cannot train with these images."""
    teachers: dict[tuple[str | None, str | None], Teacher | None] = {}
    for config in configs:
        Share(config.batch_size, config.accumulate, processes).refuse_uneven(config.mixing)
        refuse_too_few(len(images.train), config)
        key = (config.teacher, config.teacher_file)
        if key not in teachers:
            teachers[key] = load_teacher(config, images.preprocess, images.train.class_names)
    first = configs[0]
    if first.init is not None:
        start = load_checkpoint(first.init)
        refuse_other_architecture(start.spec, _spec(first, images), first.init)
    return [teachers[config.teacher, config.teacher_file] for config in configs]


def _spec(config: TrainConfig, images: Images) -> Any:
    return model_spec(config.model, num_classes=len(images.train.class_names), **config.model_settings())


def _model(config: TrainConfig, images: Images) -> BHViT:
    model = BHViT(_spec(config, images), drop_path=config.drop_path)
    model.class_names, model.preprocess = images.train.class_names, images.preprocess
    return model
