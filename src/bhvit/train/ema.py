"""The moving average of a model's weights, with batch statistics of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.optim.swa_utils import update_bn

from ..models import BHViT
from .loader import Batches
from .settings import EmaSettings


class ModelEma:
    """An exponential moving average of `model`, itself a model: `module`.

    Parameters are averaged and buffers copied. Before it is used the batch norms' statistics are measured:
    averaged latent weights have other signs than those of any step, so that neither the last step's statistics nor
    an average of statistics belongs to them.
    """

    def __init__(self, model: BHViT, settings: EmaSettings) -> None:
        self._batches = settings.ema_batches
        self._ema = ModelEmaV3(model, settings.ema, use_warmup=True, exclude_buffers=True)
        self.module: BHViT = self._ema.module
        self.module.requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.drop_prob = 0.0

    def weight(self, steps: int) -> float:
        """Return how far step number `steps`, from 1, moves the average.

        0 keeps it, 1 copies the weights, as the first step does.
        """
        return 1.0 - float(self._ema.get_decay(steps))

    @torch.no_grad()
    def update(self, model: BHViT, weight: float | Tensor) -> None:
        """Move the average towards the weights of `model`, and copy its buffers.

        `weight` is the share of the way, 0 to 1.
        """
        average: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        if isinstance(weight, Tensor):  # which the operation below takes as a number alone
            steps = list(torch._foreach_sub(weights, average))
            torch._foreach_mul_(steps, weight)
            torch._foreach_add_(average, steps)
        else:
            torch._foreach_lerp_(average, weights, weight)
        buffers = list(zip(self.module.buffers(), model.buffers()))
        for kind in {buffer.dtype for buffer, _ in buffers}:  # together they would be copied one by one
            own, others = zip(*(pair for pair in buffers if pair[0].dtype == kind))
            torch._foreach_copy_(own, others)

    def measure(self, batches: Batches, epoch: int, autocast: Any) -> None:
        """Measure the batch norms' statistics over the first batches of an epoch.

        `ema_batches` of them.
        """
        with torch.no_grad(), autocast:
            update_bn(self._images(batches, epoch), self.module)

    def _images(self, batches: Batches, epoch: int) -> Iterator[Tensor]:
        for images, _ in batches.epoch(epoch, stop=self._batches):
            yield from images.chunk(batches.settings.accumulate)
