"""Temperatures, scores and thresholds: what is fitted, stored, and said of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bhvit.calibration import (
    Calibration,
    auroc,
    calibration_error,
    fit,
    negative_log_likelihood,
    probabilities,
    scores,
)
from bhvit.errors import UserError

CALIBRATION = Calibration(temperature=1.5, score="energy", quantiles=tuple(float(value) for value in range(101)))


def drawn(count: int, temperature: float, classes: int = 5) -> tuple[Any, Any]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (count, classes)).astype(np.float32)
    chances = probabilities(logits, temperature)
    labels = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    found = fit(logits, labels)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert calibration_error(logits, labels, found.temperature) < 0.015
    if temperature != 1:
        assert calibration_error(logits, labels) > 0.05
    for other in (0.95, 1.05):
        at = negative_log_likelihood(logits, labels, found.temperature)
        assert at < negative_log_likelihood(logits, labels, found.temperature * other)


def test_few_images_that_are_all_right_do_not_make_the_model_certain() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] * 4
    found = fit(logits, np.array([0, 1, 2, 0]))
    assert probabilities(logits, found.temperature).max() == pytest.approx(5 / 6, abs=1e-3)


def test_one_class_and_no_images() -> None:
    found = fit(np.ones((3, 1), np.float32), np.zeros(3, np.int64))
    assert 0.01 <= found.temperature <= 100
    with pytest.raises(UserError, match="no images to calibrate with"):
        fit(np.ones((0, 3), np.float32), np.zeros(0, np.int64))


def test_a_threshold_misses_the_share_that_was_accepted() -> None:
    logits, labels = drawn(5_000, 1.0)
    for score in ("energy", "max_logit"):
        found = fit(logits, labels, score)
        for miss_rate in (0.0, 0.01, 0.05, 0.125, 0.5):
            assert found.unknown(logits, miss_rate).mean() == pytest.approx(miss_rate, abs=0.003)
        assert not found.unknown(logits, 0.0).any()
        assert found.unknown(np.full_like(logits[:1], np.nan), 0.0).all()


def test_scores_are_those_of_their_papers() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [100.0, 0.0, -100.0]], np.float32)
    assert scores(logits, "max_logit").tolist() == [3.0, 100.0]
    assert scores(logits, "energy") == pytest.approx(np.log(np.exp(logits.astype(np.float64)).sum(axis=1)))


def test_auroc_counts_pairs() -> None:
    known, unknown = np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])
    pairs = [(k > u) + (k == u) / 2 for k in known for u in unknown]
    assert auroc(known, unknown) == sum(pairs) / len(pairs)
    assert auroc(known, known) == 0.5


def test_what_is_written_is_read() -> None:
    assert Calibration.from_json(CALIBRATION.to_json()) == CALIBRATION
    assert CALIBRATION.threshold(0.005) == 0.5
    assert CALIBRATION.threshold(1) == 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": 0}, "temperature must be from 0.01 to 100"),
        ({"temperature": True}, "temperature must be"),
        ({"temperature": None}, "temperature must be"),
        ({"temperature": 10**400}, "temperature must be"),
        ({"score": "entropy"}, "score must be one of energy, max_logit"),
        ({"score": ["energy"]}, "score must be"),
        ({"quantiles": [0.0] * 100}, "101 finite numbers that ascend"),
        ({"quantiles": [0.0] * 100 + [-1.0]}, "101 finite numbers that ascend"),
        ({"quantiles": [0.0] * 100 + [1e31]}, "101 finite numbers that ascend"),
        ({"quantiles": "0" * 101}, "quantiles must be a list"),
        ({"more": 1}, "more"),
    ],
)
def test_damage_is_said(changes: dict[str, Any], said: str) -> None:
    text = json.dumps({**json.loads(CALIBRATION.to_json()), **changes})
    with pytest.raises(UserError, match="the calibration is damaged") as error:
        Calibration.from_json(text)
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", "{"])
def test_what_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="the calibration is damaged"):
        Calibration.from_json(text)


@pytest.mark.parametrize("miss_rate", [-0.1, 1.1, 5, float("nan"), "0.05", None, True])
def test_a_miss_rate_is_a_fraction(miss_rate: Any) -> None:
    with pytest.raises(UserError, match="a miss rate is a fraction from 0 to 1"):
        CALIBRATION.threshold(miss_rate)
