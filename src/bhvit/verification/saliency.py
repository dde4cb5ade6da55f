"""How faithful a map of importance is: deletion and insertion (Petsiuk et al., BMVC 2018)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..bits import Floats
from ..calibration import probabilities
from ..data.metrics import Predict

STEPS = 16
"""Parts in which an image's pixels are taken away or added, the most important first."""


class Faithfulness(NamedTuple):
    """Areas under a class's probability, 0 to 1."""

    deletion: float
    """While the most important pixels are taken away: small where the map is right."""
    insertion: float
    """While they are added to an empty image: large where the map is right."""


def faithfulness(predict: Predict, image: Floats, heat: Floats, label: int, steps: int = STEPS) -> Faithfulness:
    """Measure how the model's answer follows a map of importance.

    The pixels of an image (C, H, W) are taken away, and added, in the order of `heat` (H, W), and the model is run.

    A pixel that is away has the image's mean colour.
    """
    order = np.argsort(-heat.reshape(-1), kind="stable")
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    share = rank.reshape(heat.shape) / order.size
    mean = np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), image.shape)
    deleted = np.stack([np.where(share < step / steps, mean, image) for step in range(steps + 1)])
    inserted = np.stack([np.where(share < step / steps, image, mean) for step in range(steps + 1)])
    chances = probabilities(predict(np.concatenate([deleted, inserted]).astype(np.float32)))[:, label]
    first, second = chances[: steps + 1], chances[steps + 1 :]
    return Faithfulness(_area(first), _area(second))


def _area(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """The area under values at equal distances from 0 to 1, by trapezoids."""
    return float((values[1:] + values[:-1]).mean() / 2)
