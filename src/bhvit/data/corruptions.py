"""Accuracy on corrupted images: noise, blur, fog, brightness, contrast, JPEG and pixelation at five strengths.

The corruptions are those that ImageNet-C and CIFAR-10-C made usual (Hendrycks and Dietterich, ICLR 2019), at their
strengths for small images (an edge below `LARGE` pixels) and for large ones, written again on NumPy and Pillow; fog is
noise of several octaves instead of their diamond-square algorithm. They change the pixels that a model would see, after
resizing and cropping, and are the same for the same image, corruption and strength whatever else is measured.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ..errors import UserError
from ..image import Preprocess
from .dataset import Dataset
from .metrics import Predict, Progress, decode

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
LARGE = 96
"""Edge in pixels from which the strengths of ImageNet-C are taken, below it those of CIFAR-10-C."""
STRENGTHS = (1, 2, 3, 4, 5)
_SMALL: dict[str, tuple[Any, ...]] = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "fog": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "jpeg": (80, 65, 58, 50, 40),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
}
_LARGE: dict[str, tuple[Any, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "blur": (1.0, 2.0, 3.0, 4.0, 6.0),
    "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "jpeg": (25, 18, 15, 10, 7),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
}
_EDGES = (32, 224)
"""Of the images that the blurs of the two tables are for."""
CORRUPTIONS = tuple(_SMALL)


def corrupt(pixels: Pixels, corruption: str, strength: int, seed: int = 0) -> Pixels:
    """Corrupt an image, uint8 (H, W, C), with a strength of 1 to 5.

    `seed` is for noise and fog.

    Raises UserError for an unknown corruption or strength.
    """
    if corruption not in CORRUPTIONS:
        raise UserError(f"there is no corruption {corruption!r}; choose of {', '.join(CORRUPTIONS)}")
    if strength not in STRENGTHS:
        raise UserError(f"a strength is one of {', '.join(map(str, STRENGTHS))}, not {strength!r}")
    edge = min(pixels.shape[:2])
    table, made_for = (_LARGE, _EDGES[1]) if edge >= LARGE else (_SMALL, _EDGES[0])
    amount = table[corruption][strength - 1]
    rng = np.random.default_rng((CORRUPTIONS.index(corruption), strength, seed))
    if corruption == "blur":
        blurred = ImageFilter.GaussianBlur(amount * (edge if edge >= LARGE else max(edge, made_for)) / made_for)
        return _by_image(pixels, lambda image: image.filter(blurred))
    if corruption == "jpeg":
        return _by_image(pixels, lambda image: _jpeg(image, amount))
    if corruption == "pixelate":
        height, width = (max(1, int(size * amount)) for size in pixels.shape[:2])
        return _by_image(
            pixels,
            lambda image: image.resize((width, height), Image.Resampling.BOX).resize(
                image.size, Image.Resampling.NEAREST
            ),
        )
    x = pixels / 255.0
    if corruption == "noise":
        x = x + rng.normal(0, amount, x.shape)
    elif corruption == "fog":
        density, decay = amount
        most = x.max()
        x = x + density * _clouds(pixels.shape[0], pixels.shape[1], decay, rng)[..., None]
        x *= most / (most + density)
    elif corruption == "brightness":
        value = x.max(axis=2, keepdims=True)  # of hue, saturation and value
        lighter = np.minimum(value + amount, 1)
        x = np.where(value > 0, x * (lighter / np.maximum(value, 1e-9)), lighter)
    else:
        mean = x.mean(axis=(0, 1), keepdims=True)
        x = (x - mean) * amount + mean
    return np.asarray((np.clip(x, 0, 1) * 255).astype(np.uint8))


def _by_image(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Change an image (H, W, C) by Pillow.

    As colours if it has three channels, otherwise channel by channel.
    """
    if pixels.shape[2] == 3:
        return np.asarray(change(Image.fromarray(pixels)))
    planes = [np.asarray(change(Image.fromarray(pixels[..., c]))) for c in range(pixels.shape[2])]
    return np.stack(planes, axis=2)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        decoded.load()
        return decoded


def _clouds(height: int, width: int, decay: float, rng: np.random.Generator) -> Floats:
    """Draw noise (H, W) of several octaves, from 0 to 1.

    Each is half as coarse as the one before, and weaker by `decay`.
    """
    total = np.zeros((height, width))
    cells, weight = 2, 1.0
    while cells <= max(height, width):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        cells, weight = 2 * cells, weight / decay
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(high - low, 1e-9))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Robustness:
    """Top-1 on images as they are and corrupted; fractions, 0 to 1."""

    images: int
    clean: float
    accuracy: Floats
    """By corruption, in the order of `CORRUPTIONS`, and strength 1 to 5: (7, 5)."""

    @property
    def mean(self) -> float:
        """Mean over all corruptions and strengths."""
        return float(self.accuracy.mean())

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "images": self.images,
            "clean": self.clean,
            "mean": self.mean,
            "accuracy": dict(zip(CORRUPTIONS, self.accuracy.tolist(), strict=True)),
        }

    def rows(self) -> list[list[str]]:
        """A line for each corruption: name, accuracy at each strength, mean, as text."""
        return [
            [name, *(f"{value:.1%}" for value in values), f"{values.mean():.1%}"]
            for name, values in zip(CORRUPTIONS, self.accuracy, strict=True)
        ]


def robustness(
    predict: Predict,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Robustness:
    """Measure top-1 on a data set with every corruption at every strength.

    And without any.

    Raises UserError if the data set is empty or an image is damaged.
    """
    if len(dataset) == 0:
        raise UserError("there are no images to evaluate")
    right = np.zeros((len(CORRUPTIONS), len(STRENGTHS)))
    clean = 0
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        pixels, labels = decode(dataset, preprocess, indices), dataset.labels[indices.start : indices.stop]

        def count(images: Pixels, labels: npt.NDArray[np.int64] = labels) -> int:
            return int((predict(preprocess.normalize(images)).argmax(axis=1) == labels).sum())

        clean += count(pixels)
        for row, corruption in enumerate(CORRUPTIONS):
            for strength in STRENGTHS:
                changed = [
                    corrupt(image, corruption, strength, index) for index, image in zip(indices, pixels, strict=True)
                ]
                right[row, strength - 1] += count(np.stack(changed))
        if progress is not None:
            progress(indices.stop, len(dataset))
    return Robustness(images=len(dataset), clean=clean / len(dataset), accuracy=right / len(dataset))
