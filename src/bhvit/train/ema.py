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
from .config import TrainConfig
from .loader import Batches


class ModelEma:
    """An exponential moving average of `model`, itself a model: `module`.

    Parameters are averaged and buffers copied. Before it is used the batch norms' statistics are measured anew:
    averaged latent weights have other signs than those of any step, so that neither the last step's statistics nor
    an average of statistics belongs to them.
    """

    def __init__(self, model: BHViT, config: TrainConfig) -> None:
        self.config = config
        self._ema = ModelEmaV3(model, config.ema, use_warmup=True, exclude_buffers=True)
        self.module: BHViT = self._ema.module
        self.module.requires_grad_(False)
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.drop_prob = 0.0

    def update(self, model: BHViT, steps: int) -> None:
        """After step number `steps`, from 1: the first one copies the weights."""
        self._ema.update(model, steps)

    def measure(self, batches: Batches, epoch: int, autocast: Any) -> None:
        """Set the statistics of every batch norm to their mean over the first `ema_batches` batches of an epoch."""
        with torch.no_grad(), autocast:
            update_bn(self._images(batches, epoch), self.module)

    def _images(self, batches: Batches, epoch: int) -> Iterator[Tensor]:
        for images, _ in batches.epoch(epoch, stop=self.config.ema_batches):
            yield from images.chunk(self.config.accumulate)
