"""One optimiser step: forward, loss, backward, clipping, optimiser, moving average."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..models import BHViT
from .augment import Mixing, seed_for
from .config import TrainConfig
from .context import RunContext
from .ema import ModelEma
from .graphs import Capture, StaticStep
from .loader import Batch, Batches
from .losses import count_right, total_loss
from .optim import hold_rates, learning_rate, rates, set_learning_rate, takes_tensor_rates
from .teacher import Teacher
from .teacher_outputs import TeacherOutputs


class Trained(Protocol):
    """What a step needs of a phase."""

    config: TrainConfig
    context: RunContext
    model: BHViT
    network: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    mixing: Mixing | None
    class_weights: Tensor | None
    teacher: Teacher | None
    outputs: TeacherOutputs | None
    ema: ModelEma | None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward pass."""

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        """Within this, processes exchange gradients only if it is for the last micro-batch of a batch."""


class _Numbers(NamedTuple):
    """What changes from step to step without being drawn: numbers, or scalars on the device."""

    dampening: float | Tensor
    """Weight of oscillation dampening."""
    average: float | Tensor
    """How far the moving average moves towards the weights."""


class TrainStep:
    """Takes the optimiser steps of a phase.

    A static step is a function of tensors that stay where they are, the learning rate and the like among them: a CUDA
    graph can hold it, and calling it computes the same. Optimisers that count outside of tensors stay outside of it.
    Other steps take the learning rate and the like as Python's numbers.
    """

    def __init__(self, phase: Trained, *, static: bool = False, capture: Capture | None = None) -> None:
        """`capture` makes a graph of a `static` step."""
        self._phase, self._device = phase, phase.context.device
        self._whole = static and takes_tensor_rates(phase.optimizer)
        self._static = StaticStep(self._compute, self._device, capture, phase.context.say) if static else None
        self._rates: Tensor | None = None

    def __call__(self, batch: Batch, seed: int, done: int) -> Tensor:
        """Take step number `done` of the phase, from 0, which draws its random numbers from `seed`.

        This process's loss, and how many of its images were right: float64 (2,) on the device.
        """
        phase, config = self._phase, self._phase.config
        inputs = batch.inputs | self._drawn(seed)
        if phase.outputs is not None:
            inputs["teacher"] = phase.outputs[batch.which]
        rate = learning_rate(config, done, phase.batches.steps)
        dampening = config.dampening * (1 - math.cos(math.pi * done / (config.epochs * phase.batches.steps))) / 2
        average = phase.ema.weight(done + 1) if phase.ema is not None else 0.0
        if self._static is None:
            inputs = {name: value.to(self._device, non_blocking=True) for name, value in inputs.items()}
            set_learning_rate(phase.optimizer, rate)
            torch.manual_seed(seed)  # stochastic depth draws from the global generator
            outcome = self._gradients(inputs, dampening, seed)
            self._update(average)
            return outcome
        inputs["numbers"] = torch.tensor([dampening, average])
        if self._whole:
            if self._rates is None:
                self._rates = hold_rates(phase.optimizer, self._device)
            inputs["rates"] = torch.tensor(rates(phase.optimizer, rate), dtype=self._rates.dtype)
        outcome = self._static(inputs, seed)
        if not self._whole:
            set_learning_rate(phase.optimizer, rate)
            self._update(average)
        return outcome

    def release(self) -> None:
        """Give back the memory that only this step needs; it cannot be taken again."""
        self._static = None
        self._phase.optimizer.zero_grad(set_to_none=True)
        self._phase.optimizer.state.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _drawn(self, seed: int) -> dict[str, Tensor]:
        """What mixing draws for each part of the batch, one after the other."""
        phase = self._phase
        if phase.mixing is None:
            return {}
        parts = [
            phase.mixing.draw(phase.model.spec.img_size, seed_for(seed, index) if index else seed)
            for index in range(phase.config.accumulate)
        ]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _compute(self, inputs: Mapping[str, Tensor], seed: int | None) -> Tensor:
        """The part of a static step that a graph can hold; there `seed` is None."""
        numbers = _Numbers(*inputs["numbers"].unbind())
        if self._whole:
            assert self._rates is not None
            self._rates.copy_(inputs["rates"])
        outcome = self._gradients(inputs, numbers.dampening, seed)
        if self._whole:
            self._update(numbers.average)
        return outcome

    def _gradients(self, inputs: Mapping[str, Tensor], dampening: float | Tensor, seed: int | None) -> Tensor:
        """Compute the gradients of a batch. What `__call__` returns."""
        phase, config = self._phase, self._phase.config
        phase.optimizer.zero_grad(set_to_none=True)
        images, labels = phase.batches.prepare(inputs)
        parts = config.accumulate
        teacher = inputs["teacher"].chunk(parts) if "teacher" in inputs else [None] * parts
        losses, right = [], []
        for index, (x, y, logits_of_teacher) in enumerate(zip(images.chunk(parts), labels.chunk(parts), teacher)):
            if index and seed is not None:
                torch.manual_seed(seed_for(seed, index))
            if phase.mixing is not None:
                x, y = phase.mixing.apply(x, y, inputs["shares"][index], inputs["box"][index])
            with phase.sync(index == parts - 1):
                with phase.autocast():
                    if logits_of_teacher is None and phase.teacher is not None:
                        logits_of_teacher = phase.teacher(x)
                    logits = phase.network(x)
                    weights = phase.class_weights
                    loss = total_loss(config, phase.model, logits, y, logits_of_teacher, dampening, weights) / parts
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            right.append(count_right(logits.detach(), y))
        if config.clip_grad:
            torch.nn.utils.clip_grad_norm_(phase.model.parameters(), config.clip_grad)
        return torch.stack([sum(losses[1:], losses[0]).double(), sum(right[1:], right[0]).double()])

    def _update(self, average: float | Tensor) -> None:
        """Change the weights by their gradients, and the average by the weights."""
        phase = self._phase
        phase.optimizer.step()
        if phase.ema is not None:
            phase.ema.update(phase.model, average)
