"""The phases of a run: each has a model and what trains it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.masks import MaskedDataset
from ..errors import UserError
from ..models import BHViT, create_model, load_checkpoint, model_spec
from ..spec.model import ModelSpec
from .augment import Mixing
from .compilation import check_torch_compiles, compile_blocks
from .config import TrainConfig
from .context import RunContext
from .distributed import BatchShard, Processes, wrap_ddp
from .ema import ModelEma
from .execution import Execution, precision
from .flip_monitor import FlipMonitor
from .graphs import cuda_graph
from .loader import Batches, check_fills_batch
from .losses import check_loss_terms, count_weights
from .optim import check_optimizer, make_optimizer
from .run_data import RunData
from .run_folder import State
from .settings import ModelSettings, is_outputs_file
from .step import TrainStep
from .teacher import Teacher, load_teacher
from .teacher_outputs import TeacherOutputs, read_outputs
from .warm_start import check_same_architecture, start_from


class Phase:
    """The model of a phase and what trains it.

    Images that the phase before has decoded are not decoded again.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: RunData,
        teacher: Teacher | TeacherOutputs | None,
        context: RunContext,
        before: Phase | None = None,
    ) -> None:
        self.config, self.context = config, context
        shard = BatchShard(config.batch_size, config.accumulate, context.processes)
        self.model = _model(config, data)
        self.teacher = teacher.to(context.device) if isinstance(teacher, Teacher) else None
        self.outputs = teacher if isinstance(teacher, TeacherOutputs) else None
        """The teacher's outputs, where they are kept or come from a file."""
        decoded = before.batches.pixels if before else None
        self.batches: Batches = Batches(data.train, data.preprocess, config, context.device, shard, decoded)
        classes = len(data.train.class_names)
        self.class_weights = (
            count_weights(_counts(data, self.batches), config.balance).to(context.device) if config.balance else None
        )
        """What an image or pixel counts by its class."""
        self.mixing = Mixing(config, config.label_smoothing, classes) if config.mixing else None
        self.model.to(context.device)
        self.network: nn.Module = wrap_ddp(self.model, shard, context.device)
        """What is called in training: the model, or the model as one of several processes has it."""
        execution = Execution.choose(config, context, len(data.train), data.preprocess.size, self.batches.masked)
        self.optimizer = make_optimizer(self.model, config, static=execution.static)
        self.ema = ModelEma(self.model, config) if config.ema else None
        self.monitor = FlipMonitor(self.model)
        self.step = TrainStep(self, static=execution.static, capture=cuda_graph if execution.graphs else None)
        context.say(execution.describe(config, context, self.batches.place))
        if execution.compile:
            rows = config.batch_size // config.accumulate // context.processes.size
            compile_blocks(self.model, rows, self.autocast(), context.quiet)

    def start(self, source: object) -> None:
        """Begin with the weights of a checkpoint and say what was changed.

        Raises UserError if they do not fit.
        """
        for note in start_from(self.model, load_checkpoint(str(source)), source):
            self.context.say(note)
        self.monitor.load({})

    @property
    def result(self) -> BHViT:
        """The model that is evaluated and saved: the average, if there is one."""
        return self.ema.module if self.ema else self.model

    @property
    def state(self) -> State:
        """The state that changes from step to step."""
        return State(self.model, self.optimizer, self.ema.module if self.ema else None, self.monitor)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if precision(self.config, self.context.device) == "float32":
            return nullcontext()
        return torch.autocast(self.context.device.type, dtype=torch.bfloat16)

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        """Let processes exchange gradients after a batch's last micro-batch only."""
        if last or not isinstance(self.network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()


def check_models(configs: list[TrainConfig]) -> None:
    """Check the models of all phases before any image is opened.

    Raises UserError for a model that cannot be made or trained.
    """
    if configs[0].layer_decay < 1 and configs[0].init is None:
        raise UserError(
            "a layer_decay below 1, as the recipe finetune has it, is for models that were trained before: "
            "give --init CHECKPOINT (or cifar10), or --set layer_decay=1"
        )
    if configs[0].compile is True:
        check_torch_compiles()
    before = None
    for index, config in enumerate(configs):
        rehearsal = create_model(config.model, num_classes=2, **config.model_settings())
        check_loss_terms(config, rehearsal)
        check_optimizer(config, rehearsal)
        if before is not None:
            check_same_architecture(before, rehearsal.spec, f"phases.{index - 1}")
        before = rehearsal.spec


def check_phases(
    configs: list[TrainConfig], data: RunData, processes: Processes
) -> list[Teacher | TeacherOutputs | None]:
    """The teacher of each phase, loaded once.

    Raises UserError for a phase that cannot train with these images.
    """
    teachers: dict[tuple[str | None, str | None], Teacher | TeacherOutputs | None] = {}
    for config in configs:
        BatchShard(config.batch_size, config.accumulate, processes).check_divides(config.mixing)
        check_fills_batch(len(data.train), config.batch_size)
        key = (config.teacher, config.teacher_file)
        if key not in teachers:
            if config.teacher is not None and is_outputs_file(config.teacher):
                teachers[key] = read_outputs(config.teacher, data.train)
            else:
                teachers[key] = load_teacher(config, data.preprocess, data.train.class_names, config.task)
    first = configs[0]
    if first.init is not None:
        start = load_checkpoint(first.init)
        check_same_architecture(start.spec, _spec(first, data), first.init)
    return [teachers[config.teacher, config.teacher_file] for config in configs]


def _counts(data: RunData, batches: Batches) -> npt.NDArray[np.int64]:
    """Training images of each class, or with masks pixels, (classes,)."""
    count = len(data.train.class_names)
    if not isinstance(data.train, MaskedDataset):
        return np.bincount(data.train.labels, minlength=count)
    counts = np.zeros(256, np.int64)
    for index in range(len(data.train)):
        mask = data.train.mask(index) if batches.pixels is None else batches.pixels[index, :, :, -1].cpu().numpy()
        counts += np.bincount(mask.reshape(-1), minlength=256)
    return counts[:count]


def _spec(settings: ModelSettings, data: RunData) -> ModelSpec:
    return model_spec(settings.model, num_classes=len(data.train.class_names), **settings.model_settings())


def _model(settings: ModelSettings, data: RunData) -> BHViT:
    model = BHViT(_spec(settings, data), drop_path=settings.drop_path)
    model.class_names, model.preprocess = data.train.class_names, data.preprocess
    return model
