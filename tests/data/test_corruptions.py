"""Corruptions of images, and accuracy under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bhvit.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt, robustness
from bhvit.data.dataset import Dataset
from bhvit.data.stores import ArrayStore
from bhvit.errors import UserError
from bhvit.image import Preprocess


def picture(height: int, width: int, channels: int = 3) -> Any:
    """A smooth picture with an edge, so that every corruption changes it."""
    y, x = np.mgrid[:height, :width]
    plane = 60 + 100 * y / height + 40 * (x > width // 2) + 20 * np.sin(x)
    return np.stack([plane + 10 * c for c in range(channels)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 40, 3), (28, 28, 1), (128, 100, 3), (16, 16, 2)])
def test_a_stronger_corruption_changes_more(corruption: str, shape: tuple[int, int, int]) -> None:
    image = picture(*shape)
    changes = []
    for strength in STRENGTHS:
        changed = corrupt(image, corruption, strength, seed=3)
        assert (changed.shape, changed.dtype) == (image.shape, np.dtype(np.uint8))
        assert (changed == corrupt(image, corruption, strength, seed=3)).all()
        changes.append(np.abs(changed.astype(float) - image).mean())
    assert changes[0] > 0
    if corruption == "fog":  # of another decay at each strength: denser for three steps, then coarser
        assert changes[0] < changes[1] < changes[2]
    else:
        assert changes[0] < changes[2] < changes[3] < changes[4]


def test_what_is_drawn_depends_on_the_image_alone() -> None:
    image = picture(32, 32)
    for corruption in ("noise", "fog"):
        assert (corrupt(image, corruption, 3, seed=1) != corrupt(image, corruption, 3, seed=2)).any()
    noise = corrupt(np.full((96, 96, 3), 128, np.uint8), "noise", 1).astype(float) / 255
    assert noise.std() == pytest.approx(0.08, rel=0.05)


def test_brightness_and_contrast_keep_colours_and_mean() -> None:
    image = np.full((8, 8, 3), (100, 50, 25), np.uint8)
    lighter = corrupt(image, "brightness", 5)[0, 0].astype(float)
    assert lighter[0] == pytest.approx(100 + 0.3 * 255, abs=1.5)
    assert lighter / lighter[0] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    assert corrupt(np.zeros((8, 8, 3), np.uint8), "brightness", 1)[0, 0].tolist() == [12, 12, 12]
    flat, original = corrupt(picture(32, 32), "contrast", 5)[..., 0], picture(32, 32)[..., 0]
    assert flat.mean() == pytest.approx(original.mean(), abs=1)
    assert flat.std() == pytest.approx(0.15 * original.std(), rel=0.1)


@pytest.mark.parametrize(("corruption", "strength"), [("snow", 1), ("fog", 0), ("fog", 6), ("fog", "1")])
def test_unknown_ones_are_refused(corruption: str, strength: Any) -> None:
    with pytest.raises(UserError, match=r"there is no corruption 'snow'|a strength is one of 1, 2, 3, 4, 5"):
        corrupt(picture(8, 8), corruption, strength)


def test_accuracy_is_counted_for_each_corruption_and_strength() -> None:
    pixels = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (20, 90, 200)])
    dataset = Dataset(ArrayStore(pixels, "grey"), np.arange(3), np.array([0, 0, 1]), ("dark", "light"))
    preprocess = Preprocess(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0)
    seen: list[int] = []

    def predict(images: Any) -> Any:
        light = images.mean(axis=(1, 2, 3)) > -0.05  # brighter than about 121
        return np.stack([~light, light], axis=1).astype(np.float32)

    found = robustness(
        predict, dataset, preprocess, batch_size=2, progress=lambda done, total: seen.append(done * 10 + total)
    )
    assert (found.images, found.clean, found.accuracy.shape) == (3, 1.0, (7, 5))
    assert seen == [23, 33]
    table = found.to_dict()["accuracy"]
    assert table["contrast"] == [1.0] * 5
    assert table["brightness"] == [1.0, 1.0, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert found.mean == pytest.approx(found.accuracy.mean())
    assert found.rows()[3][0] == "brightness"
    with pytest.raises(UserError, match="there are no images to evaluate"):
        robustness(predict, dataset.subset([]), preprocess)
