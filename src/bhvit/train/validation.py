"""Evaluation of a model in training, an equal share of the images by every process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from ..data.metrics import Floats, Metrics, metrics, predict_all
from ..models import BHViT
from .compilation import as_they_are
from .distributed import Processes
from .run_data import RunData

EVALUATION_BATCH = 256


def validate(
    model: BHViT,
    images: RunData,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[int, int], None],
) -> Metrics:
    """Metrics of `model` on all validation images, each of them counted once; the same in every process."""
    model.eval()
    device = next(model.parameters()).device

    def predict(batch: Floats) -> Floats:
        with torch.no_grad(), as_they_are(), autocast():
            logits = model(torch.from_numpy(batch).to(device))
        result: Floats = logits.float().cpu().numpy()
        return result

    own: tuple[Floats, float] = np.zeros((0, model.spec.num_classes), np.float32), 0.0
    if len(images.validation):
        own = predict_all(
            predict,
            images.validation,
            images.preprocess,
            batch_size=EVALUATION_BATCH,
            pixels=images.pixels,
            progress=progress,
        )
    shares = processes.gather(own)
    logits = np.empty((len(images.labels), model.spec.num_classes), np.float32)
    for rank, (share, _) in enumerate(shares):
        logits[rank :: processes.size] = share
    seconds = max(seconds for _, seconds in shares)
    return metrics(logits, images.labels, images.validation.class_names, seconds=seconds)
