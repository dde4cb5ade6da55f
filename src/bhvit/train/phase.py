"""What a run is made of: the images of all its phases, and the parts of one phase."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models import BHViT, create_model, load_checkpoint, model_spec
from .augment import Mixing
from .compilation import check_torch_compiles
from .config import TrainConfig
from .distributed import BatchShard, Processes, wrap_ddp
from .ema import ModelEma
from .flip_monitor import FlipMonitor
from .loader import Batches, check_fills_batch
from .losses import check_loss_terms
from .optim import make_optimizer
from .run_data import RunData
from .teacher import Teacher, load_teacher
from .teacher_outputs import TeacherOutputs
from .warm_start import check_same_architecture, start_from


class Phase:
    """The model of a phase and what trains it. RunData that the phase before has decoded are not decoded again."""

    def __init__(
        self,
        config: TrainConfig,
        images: RunData,
        teacher: Teacher | None,
        device: torch.device,
        processes: Processes,
        before: Phase | None = None,
    ) -> None:
        self.config, self.device = config, device
        shard = BatchShard(config.batch_size, config.accumulate, processes)
        self.model = _model(config, images)
        self.teacher = teacher.to(device) if teacher else None
        self.outputs: TeacherOutputs | None = None
        """The teacher's outputs, where they are kept."""
        decoded = before.batches.pixels if before else None
        self.batches: Batches = Batches(images.train, images.preprocess, config, device, shard, decoded)
        self.mixing = Mixing(config, len(images.train.class_names)) if config.mixing else None
        self.model.to(device)
        self.network: nn.Module = wrap_ddp(self.model, shard, device)
        """What is called in training: the model, or the model as one of several processes has it."""
        self.optimizer = make_optimizer(self.model, config)
        self.ema = ModelEma(self.model, config) if config.ema else None
        self.monitor = FlipMonitor(self.model)

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
        return self.ema.module if self.ema else self.model

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
        check_torch_compiles()
    before = None
    for index, config in enumerate(configs):
        rehearsal = create_model(config.model, num_classes=2, **config.model_settings())
        check_loss_terms(config, rehearsal)
        if before is not None:
            check_same_architecture(before, rehearsal.spec, f"phases.{index - 1}")
        before = rehearsal.spec


def check_phases(configs: list[TrainConfig], images: RunData, processes: Processes) -> list[Teacher | None]:
    """The teacher of each phase, loaded once. Raises UserError for a phase that cannot train with these images."""
    teachers: dict[tuple[str | None, str | None], Teacher | None] = {}
    for config in configs:
        BatchShard(config.batch_size, config.accumulate, processes).check_divides(config.mixing)
        check_fills_batch(len(images.train), config)
        key = (config.teacher, config.teacher_file)
        if key not in teachers:
            teachers[key] = load_teacher(config, images.preprocess, images.train.class_names)
    first = configs[0]
    if first.init is not None:
        start = load_checkpoint(first.init)
        check_same_architecture(start.spec, _spec(first, images), first.init)
    return [teachers[config.teacher, config.teacher_file] for config in configs]


def _spec(config: TrainConfig, images: RunData) -> Any:
    return model_spec(config.model, num_classes=len(images.train.class_names), **config.model_settings())


def _model(config: TrainConfig, images: RunData) -> BHViT:
    model = BHViT(_spec(config, images), drop_path=config.drop_path)
    model.class_names, model.preprocess = images.train.class_names, images.preprocess
    return model
