"""Probabilities that mean something, and a threshold below which an image is unknown.

Temperature scaling (Guo et al., ICML 2017): probabilities are softmax(logits / temperature), with one temperature
fitted to validation images. An image's score, the energy of its logits (Liu et al., NeurIPS 2020) or the largest of
them, is low where a model has seen nothing alike; the scores of the validation images say which threshold misses how
many images that the model should know. A description of both travels with checkpoints and `.bhv` files.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import UserError, require, shown
from .spec.values import is_finite

Score = Literal["energy", "max_logit"]
SCORES: tuple[Score, ...] = ("energy", "max_logit")
LOWEST, HIGHEST = 0.01, 100.0
"""Temperatures are within these."""
QUANTILES = 101
"""Thresholds that are stored: of miss rates of 0, 1, ..., 100 %."""
LARGEST_SCORE = 2.0**100
MISS_RATE = 0.05
"""Share of known images that may be taken for unknown, by default."""
_MOST_LOGITS = 1 << 22
"""Logits that a temperature is fitted to; of more images, evenly spaced ones are taken."""
BINS = 15
"""Of `calibration_error`, as in its paper's tables."""
_DIGITS = 4
"""Decimals of what is stored, so that processors whose exp differs in the last bit give the same file."""

Array: TypeAlias = "npt.NDArray[Any]"
Doubles: TypeAlias = "npt.NDArray[np.float64]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A temperature for a model's probabilities, and the scores of images that it knows."""

    temperature: float
    """Logits are divided by it before the softmax; above 1 where the model was too sure."""
    score: Score
    """What an image's score is: "energy", log(sum(exp(logits))), or "max_logit"."""
    quantiles: tuple[float, ...]
    """The scores of the validation images at 0, 1, ..., 100 %, ascending."""

    def __post_init__(self) -> None:
        require(
            is_finite(self.temperature) and LOWEST <= self.temperature <= HIGHEST,
            f"temperature must be from {LOWEST} to {HIGHEST:g}, not {shown(self.temperature)}",
        )
        require(
            isinstance(self.score, str) and self.score in SCORES,
            f"score must be one of {', '.join(SCORES)}, not {shown(self.score)}",
        )
        values = self.quantiles
        require(
            isinstance(values, tuple)
            and len(values) == QUANTILES
            and all(is_finite(value) and abs(value) < LARGEST_SCORE for value in values)
            and all(low <= high for low, high in zip(values, values[1:])),
            f"quantiles must be {QUANTILES} finite numbers that ascend, not {shown(values)}",
        )

    def to_json(self) -> str:
        """The settings as JSON with sorted keys; `from_json` gives an equal object back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read settings from `to_json`.

        Raises UserError saying what is missing, unknown or impossible.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            require(isinstance(fields["quantiles"], list), "quantiles must be a list")
            return cls(**{**fields, "quantiles": tuple(fields["quantiles"])})
        except UserError as error:
            raise UserError(f"the calibration is damaged: {error}") from error
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"the calibration is damaged: {error!r}") from error

    def threshold(self, miss_rate: float = MISS_RATE) -> float:
        """Return the score below which `miss_rate` (0 to 1) of the validation images lie.

        Between two quantiles it is interpolated linearly. Raises UserError for another number.
        """
        if not is_finite(miss_rate) or not 0 <= miss_rate <= 1:
            raise UserError(f"a miss rate is a fraction from 0 to 1, such as 0.05, not {shown(miss_rate)}")
        position = miss_rate * (QUANTILES - 1)
        lower = min(math.floor(position), QUANTILES - 2)
        low, high = self.quantiles[lower], self.quantiles[lower + 1]
        return low + (high - low) * (position - lower)

    def scores(self, logits: Array) -> Doubles:
        """Logits (N, classes) -> how well the model knows each image, (N,); higher is better."""
        return scores(logits, self.score)

    def unknown(self, logits: Array, miss_rate: float = MISS_RATE) -> npt.NDArray[np.bool_]:
        """Logits (N, classes) -> whether each image is unlike those that the model knows, (N,)."""
        return ~(self.scores(logits) >= self.threshold(miss_rate))  # so that NaN is nothing known


def probabilities(logits: Array, temperature: float = 1.0) -> Doubles:
    """Softmax of logits (N, classes) / temperature, float64 (N, classes)."""
    odds = np.exp(_shifted(logits, temperature))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def negative_log_likelihood(logits: Array, labels: npt.NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean of -log(probability of the right class) in nats; logits (N, classes), labels (N,)."""
    shifted = _shifted(logits, temperature)
    right = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - right).mean())


def calibration_error(logits: Array, labels: npt.NDArray[np.int64], temperature: float = 1.0) -> float:
    """Compute the expected calibration error of the most likely class, 0 to 1.

    Guo et al., ICML 2017, in BINS equal bins: the mean over images of |accuracy - confidence| of their bin, 0 where
    probabilities are frequencies. Logits (N, classes), labels (N,).
    """
    confidence = probabilities(logits, temperature).max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, (logits.argmax(axis=1) == labels) - confidence, BINS)
    return float(np.abs(gap).sum() / len(labels))


def scores(logits: Array, score: Score) -> Doubles:
    """Logits (N, classes) -> the score of each image, float64 (N,)."""
    largest = logits.max(axis=1).astype(np.float64)
    if score == "max_logit":
        return np.asarray(largest)
    return np.asarray(largest + np.log(np.exp(logits.astype(np.float64) - largest[:, None]).sum(axis=1)))


def fit(logits: Array, labels: npt.NDArray[np.int64], score: Score = "energy") -> Calibration:
    """Fit a calibration to the logits (N, classes) of validation images with `labels` (N,).

    The temperature minimises the negative log-likelihood of targets that are (N + 1) / (N + 2) for the right class and
    share the rest among the others (Platt, 1999): with few images, all of them right, it does not run to 0.
    Raises UserError if there are no images.
    """
    if not len(logits):
        raise UserError("there are no images to calibrate with")
    quantiles = np.quantile(scores(logits, score), np.linspace(0, 1, QUANTILES))
    step = -(-logits.size // _MOST_LOGITS)
    doubles, labels = logits[::step].astype(np.float64), labels[::step]
    count, classes = doubles.shape
    right = np.take_along_axis(doubles, labels[:, None], axis=1)[:, 0]
    rest = 1 / (count + 2) if classes > 1 else 0.0
    others = (doubles.sum(axis=1) - right) / max(1, classes - 1)
    target = float(((1 - rest) * right + rest * others).mean())

    def loss(log_temperature: float) -> float:
        inverse = math.exp(-log_temperature)
        return float(scores(doubles * inverse, "energy").mean()) - target * inverse

    temperature = math.exp(_minimum(loss, math.log(LOWEST), math.log(HIGHEST)))
    scale = 10**_DIGITS
    return Calibration(
        temperature=min(max(round(temperature, _DIGITS), LOWEST), HIGHEST),
        score=score,
        quantiles=tuple(math.floor(value * scale) / scale for value in quantiles),
    )


def auroc(known: Doubles, unknown: Doubles) -> float:
    """Compute the area under the ROC curve of known (N,) against unknown (M,) scores.

    It is the chance that a known image has a higher score than an unknown one, ties counted half: 0.5 is guessing.
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, "left").astype(np.int64).sum()
    tied = np.searchsorted(ordered, known, "right").astype(np.int64).sum() - below
    return float((below + tied / 2) / (len(known) * len(unknown)))


def _shifted(logits: Array, temperature: float) -> Doubles:
    doubles = logits.astype(np.float64)
    return np.asarray((doubles - doubles.max(axis=1, keepdims=True)) / temperature)


def _minimum(function: Any, low: float, high: float) -> float:
    """Where a function of one valley is lowest, by golden section, to 1e-6."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    while high - low > 1e-6:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return (low + high) / 2
