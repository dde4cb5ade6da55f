"""Evaluation of a model in training, an equal share of the images by every process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.mask_classes import IGNORED
from ..data.masks import MaskedDataset
from ..data.metrics import Floats, Metrics, NonFiniteLogitsError, decode, metrics, predict_all
from ..data.segmentation_metrics import SegmentationMetrics, confusion
from ..models import BHViT
from .compilation import as_they_are
from .distributed import Processes
from .run_data import RunData

EVALUATION_BATCH = 256
"""Images of a batch on a CPU."""
EVALUATION_PIXELS, LARGEST_BATCH = 256 * 224 * 224, 4096
"""Pixels and images of a batch on a GPU, at most: small images in batches of 256 leave it idle."""
MASKED_BATCH = 8
"""Images at a time of a segmentation, whose logits are as large as many images."""


def validate(
    model: BHViT,
    images: RunData,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[int, int], None],
) -> Metrics | SegmentationMetrics:
    """Measure `model` on all validation images, each counted once.

    The result is the same in every process.
    """
    model.eval()
    if isinstance(images.validation, MaskedDataset):
        return _validate_masks(model, images.validation, images, processes, autocast, progress)
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
            batch_size=_batch_size(images, device),
            pixels=images.pixels,
            progress=progress,
        )
    shares = processes.gather(own)
    logits = np.empty((len(images.labels), model.spec.num_classes), np.float32)
    for rank, (share, _) in enumerate(shares):
        logits[rank :: processes.size] = share
    seconds = max(seconds for _, seconds in shares)
    return metrics(logits, images.labels, images.validation.class_names, seconds=seconds)


def _validate_masks(
    model: BHViT,
    dataset: MaskedDataset,
    images: RunData,
    processes: Processes,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[int, int], None],
) -> SegmentationMetrics:
    """The same of masks, at the model's size."""
    device, classes = next(model.parameters()).device, len(dataset.class_names)
    counts, loss, pixels, seconds = np.zeros((classes, classes), np.int64), 0.0, 0, 0.0
    for start in range(0, len(dataset), MASKED_BATCH):
        stop = min(start + MASKED_BATCH, len(dataset))
        if images.pixels is None:
            batch = decode(dataset, images.preprocess, range(start, stop))
        else:
            batch = images.pixels[start:stop]
        labels = torch.from_numpy(batch[..., -1].astype(np.int64))
        normalised = torch.from_numpy(images.preprocess.normalize(batch[..., :-1]))
        begin = time.perf_counter()
        with torch.no_grad(), as_they_are(), autocast():
            logits = model(normalised.to(device))
        logits = logits.float().cpu()
        seconds += time.perf_counter() - begin
        if not bool(logits.isfinite().all()):
            raise NonFiniteLogitsError("the model gives numbers that are not finite")
        counts += confusion(batch[..., -1], logits.argmax(dim=1).to(torch.uint8).numpy(), classes)
        loss += F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum").item()
        pixels += int((labels != IGNORED).sum())
        progress(stop, len(dataset))
    shares = processes.gather((counts, loss, pixels, seconds))
    whole = sum(share[2] for share in shares)
    return SegmentationMetrics(
        class_names=dataset.class_names,
        confusion=np.sum([share[0] for share in shares], axis=0),
        images=len(images.labels),
        cross_entropy=sum(share[1] for share in shares) / max(1, whole),
        seconds=max(share[3] for share in shares),
    )


def _batch_size(images: RunData, device: torch.device) -> int:
    if device.type != "cuda":
        return EVALUATION_BATCH
    return max(1, min(LARGEST_BATCH, EVALUATION_PIXELS // math.prod(images.preprocess.size)))
