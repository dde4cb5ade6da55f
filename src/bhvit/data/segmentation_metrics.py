"""Metrics of a segmentation: intersection over union, and accuracy of pixels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UserError, counted
from .classes import by_class
from .mask_classes import IGNORED
from .masks import MaskedDataset

Labels = npt.NDArray[np.uint8]
Labeller = Callable[[Image.Image], Labels]
"""An image -> the class of each of its pixels, uint8 (height, width)."""


def confusion(labels: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.int64]:
    """Pixels by (true class, found class), (classes, classes), of those with a label.

    Both are uint8 of one shape. Raises UserError for labels that are no class.
    """
    if labels.shape != found.shape:
        raise UserError(f"masks of shape {labels.shape} and labels of shape {found.shape} cannot be compared")
    counted = labels != IGNORED
    true, given = labels[counted].astype(np.int64), found[counted].astype(np.int64)
    if true.max(initial=0) >= classes or given.max(initial=0) >= classes:
        raise UserError(f"a mask has labels beyond the classes 0 to {classes - 1}")
    return np.bincount(true * classes + given, minlength=classes * classes).reshape(classes, classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationMetrics:
    """Agreement of label maps with masks; all are fractions, 0 to 1."""

    class_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    """Pixels by (true class, found class), (classes, classes)."""
    images: int
    cross_entropy: float | None = None
    """Mean negative log-likelihood of a pixel's class, in nats, where it was measured."""
    seconds: float = 0.0
    """Time spent in the model alone."""
    per_image: tuple[float, ...] = ()
    """Mean intersection over union of each image alone, over the classes that occur in it or in what was found."""

    def __post_init__(self) -> None:
        if self.images == 0:
            raise UserError("there are no images to evaluate")
        if self.confusion.shape != (len(self.class_names),) * 2:
            raise UserError(
                f"a confusion of {counted(len(self.class_names), 'class')} cannot have shape {self.confusion.shape}"
            )

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each class, (classes,).

        NaN for a class that no pixel has and none was given.
        """
        right = self.confusion.diagonal()
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - right
        return np.where(union > 0, right / np.maximum(union, 1), np.nan)

    @property
    def miou(self) -> float:
        """Mean intersection over union of classes that occur; 0 without any label."""
        present = self.per_class[~np.isnan(self.per_class)]
        return float(present.mean()) if len(present) else 0.0

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of labelled pixels whose class is right; 0 without any."""
        return float(self.confusion.trace() / max(1, self.confusion.sum()))

    def to_log(self) -> dict[str, Any]:
        """Return the entries of a run's log."""
        fields = self.to_dict()
        return {
            "val_loss": self.cross_entropy,
            "val_miou": self.miou,
            "val_pixel_accuracy": self.pixel_accuracy,
            "val_iou": fields["per_class"],
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics for JSON; None for a class that does not occur."""
        return {
            "images": self.images,
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "cross_entropy": self.cross_entropy,
            "seconds": self.seconds,
            "per_class": by_class(self.class_names, (None if np.isnan(one) else float(one) for one in self.per_class)),
            "confusion": self.confusion.tolist(),
        }


def evaluate_masks(
    label: Labeller, dataset: MaskedDataset, progress: Callable[[int, int], None] | None = None
) -> SegmentationMetrics:
    """Compare the labels of every image of `dataset`, at its own size, with its mask.

    Raises UserError if the data set is empty or an image or mask cannot be used.
    """
    classes = len(dataset.class_names)
    counts, per_image, seconds = np.zeros((classes, classes), np.int64), [], 0.0
    for index in range(len(dataset)):
        image, mask = dataset.both(index)
        begin = time.perf_counter()
        found = label(image)
        seconds += time.perf_counter() - begin
        pixels = confusion(mask, found, classes)
        counts += pixels
        own = SegmentationMetrics(class_names=dataset.class_names, confusion=pixels, images=1)
        per_image.append(own.miou)
        if progress is not None:
            progress(index + 1, len(dataset))
    return SegmentationMetrics(
        class_names=dataset.class_names,
        confusion=counts,
        images=len(dataset),
        seconds=seconds,
        per_image=tuple(per_image),
    )
