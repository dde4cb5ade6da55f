"""Metrics of a classifier: accuracy, per class, confusion, calibration; and agreement of two classifiers.

Works on any `predict`, so a PyTorch model, a packed file and the NumPy reference are measured by the
same code on the same pixels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..calibration import Calibration, calibration_error, negative_log_likelihood
from ..errors import UserError, counted
from ..image import Preprocess
from .classes import by_class
from .dataset import Dataset

Floats: TypeAlias = "npt.NDArray[np.float32]"
Predict: TypeAlias = Callable[[Floats], Floats]
"""Normalised images, float32 (B, C, H, W) -> logits, float32 (B, classes)."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the images done and the images in all."""


class NonFiniteLogitsError(UserError):
    """Logits that are NaN or infinite: no accuracy can be computed from them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a classifier on labelled images; accuracies are fractions, 0 to 1."""

    class_names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    """(N,)"""
    logits: Floats
    """(N, classes)"""
    seconds: float
    """Time spent in `predict` alone."""

    def __post_init__(self) -> None:
        images, classes = len(self.labels), len(self.class_names)
        if images == 0:
            raise UserError("there are no images to evaluate")
        if self.logits.shape != (images, classes):
            raise UserError(
                f"logits must be ({counted(images, 'image')}, {counted(classes, 'class')}), not of shape "
                f"{self.logits.shape}"
            )
        if self.labels.dtype.kind not in "iu":
            raise UserError(f"labels must be whole numbers, not {self.labels.dtype}")
        if self.labels.min() < 0 or self.labels.max() >= classes:
            raise UserError(
                f"labels go from {self.labels.min()} to {self.labels.max()}, classes from 0 to {classes - 1}"
            )
        wrong = int((~np.isfinite(self.logits)).any(axis=1).sum())
        if wrong:
            raise NonFiniteLogitsError(
                f"the model gives numbers that are not finite for {wrong} of {counted(len(self.labels), 'image')}: "
                "its weights are damaged, or training diverged"
            )

    def to_log(self) -> dict[str, Any]:
        """Return the entries of a run's log."""
        return {"val_loss": self.cross_entropy, "val_top1": self.top1, "val_top5": self.top5}

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most likely class of each image, (N,); the lower number on a tie."""
        return np.asarray(self.logits.argmax(axis=1).astype(np.int64))

    @property
    def top1(self) -> float:
        """Fraction of the images whose most likely class is right."""
        return self.top(1)

    @property
    def top5(self) -> float:
        """Fraction of the images whose class is among the five most likely.

        1 with five classes or fewer.
        """
        return self.top(5)

    def top(self, count: int) -> float:
        """Fraction of the images whose class is among the `count` most likely."""
        right = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        classes = np.arange(self.logits.shape[1])
        # Ties are broken as argmax breaks them: the class with the lower number comes first.
        before = (self.logits > right) | ((self.logits == right) & (classes < self.labels[:, None]))
        return float((before.sum(axis=1) < count).mean())

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by (true class, predicted class), (classes, classes)."""
        count = len(self.class_names)
        return np.bincount(self.labels * count + self.predictions, minlength=count * count).reshape(count, count)

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """Top-1 of the images of each class, (classes,); NaN for a class without images."""
        confusion = self.confusion
        totals = confusion.sum(axis=1)
        return np.where(totals > 0, confusion.diagonal() / np.maximum(totals, 1), np.nan)

    @property
    def cross_entropy(self) -> float:
        """Mean negative log-likelihood of the right class, in nats."""
        return negative_log_likelihood(self.logits, self.labels)

    @property
    def calibration_error(self) -> float:
        """How far probabilities are from frequencies, without a temperature: `calibration.calibration_error`."""
        return calibration_error(self.logits, self.labels)

    def calibrated(self, calibration: Calibration) -> dict[str, float]:
        """Cross entropy and calibration error of probabilities at a calibration's temperature, for a JSON file."""
        temperature = calibration.temperature
        return {
            "temperature": temperature,
            "cross_entropy": negative_log_likelihood(self.logits, self.labels, temperature),
            "calibration_error": calibration_error(self.logits, self.labels, temperature),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics for JSON; None for a class without images."""
        return {
            "images": len(self.labels),
            "top1": self.top1,
            "top5": self.top5,
            "cross_entropy": self.cross_entropy,
            "calibration_error": self.calibration_error,
            "seconds": self.seconds,
            "per_class": by_class(self.class_names, (None if np.isnan(one) else float(one) for one in self.per_class)),
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    predict: Predict,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    pixels: npt.NDArray[np.uint8] | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Run `predict` over every image of `dataset` once.

    `pixels`, uint8 (N, H, W, C), are the images as `preprocess.pixels` gives them, where they have been
    decoded before. Raises UserError if the data set is empty, an image is damaged, or the logits have
    another number of classes than the data set.
    """
    logits, seconds = predict_all(predict, dataset, preprocess, batch_size=batch_size, pixels=pixels, progress=progress)
    return metrics(logits, dataset.labels, dataset.class_names, seconds=seconds)


def predict_all(
    predict: Predict,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    pixels: npt.NDArray[np.uint8] | None = None,
    progress: Progress | None = None,
) -> tuple[Floats, float]:
    """Logits (N, classes) of every image of `dataset` and the seconds spent in `predict`; see `evaluate`."""
    if len(dataset) == 0:
        raise UserError("there are no images to evaluate")
    logits: list[Floats] = []
    seconds = 0.0
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        batch = decode(dataset, preprocess, range(start, stop)) if pixels is None else pixels[start:stop]
        images = preprocess.normalize(batch)
        begin = time.perf_counter()
        logits.append(np.array(predict(images), dtype=np.float32))  # a copy: predict may reuse its buffer
        seconds += time.perf_counter() - begin
        if progress is not None:
            progress(stop, len(dataset))
    return np.concatenate(logits), seconds


def metrics(
    logits: Floats, labels: npt.NDArray[np.int64], class_names: Sequence[str], *, seconds: float = 0.0
) -> Metrics:
    """Metrics of logits (N, classes) computed elsewhere. Raises UserError if the class counts differ."""
    if logits.ndim == 2 and logits.shape[1] != len(class_names):
        raise UserError(
            f"the model gives {counted(logits.shape[1], 'class')}, the data set has {len(class_names)}: "
            "evaluate it on the classes it was trained for"
        )
    return Metrics(class_names=tuple(class_names), labels=labels, logits=logits, seconds=seconds)


def decode(dataset: Dataset, preprocess: Preprocess, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Images as uint8 (B, H, W, C), resized and cropped.

    Raises UserError naming a damaged one.
    """
    return np.stack([dataset.pixels(index, preprocess) for index in indices])


def agreement(first: Metrics, second: Metrics) -> float:
    """Fraction of the images on which two classifiers' most likely classes are the same."""
    if first.labels.shape != second.labels.shape:
        raise ValueError(f"not the same images: {len(first.labels)} and {len(second.labels)}")
    return float((first.predictions == second.predictions).mean())
