"""Near duplicates and k-centre greedy."""

from __future__ import annotations

import numpy as np
import pytest

from bhvit.data.embeddings import k_centres, near_duplicates
from bhvit.errors import UserError


def test_pairs_with_a_large_cosine_are_found_wherever_they_are() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2500, 16)).astype(np.float32)
    features[2000] = 3 * features[7]
    features[2100] = features[1500] + 0.01
    pairs = near_duplicates(features, 0.99)
    assert [(pair.first, pair.second) for pair in pairs] == [(7, 2000), (1500, 2100)]
    assert pairs[0].similarity == pytest.approx(1)
    small = features[:40]
    unit = small / np.linalg.norm(small, axis=1, keepdims=True)
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if unit[i] @ unit[j] >= 0.5}
    assert {(pair.first, pair.second) for pair in near_duplicates(small, 0.5)} == expected
    assert near_duplicates(features[:0]) == []
    with pytest.raises(UserError, match="a similarity is a cosine"):
        near_duplicates(features, 1.5)


def test_pairs_of_many_equal_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhvit.data.embeddings.MAX_PAIRS", 190)
    assert len(near_duplicates(np.ones((20, 4)))) == 190
    with pytest.raises(UserError, match=r"more than 190 pairs of images have a similarity of 0\.98 or more"):
        near_duplicates(np.ones((21, 4)))


def test_centres_cover_clusters_before_they_repeat() -> None:
    rng = np.random.default_rng(1)
    directions = np.eye(4)
    features = np.concatenate([directions[i] * 5 + rng.normal(0, 0.05, (30, 4)) for i in range(4)])
    chosen = k_centres(features, 4)
    assert {index // 30 for index in chosen} == {0, 1, 2, 3}
    known = features[:60]  # two clusters are labelled
    assert {index // 30 for index in k_centres(features, 2, known)} == {2, 3}
    assert len(set(k_centres(features, 500))) == len(features)
    assert k_centres(features[:0], 3) == []
    with pytest.raises(UserError, match="must come from one model"):
        k_centres(features, 2, np.zeros((1, 3)))
