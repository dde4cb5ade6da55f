"""Pictures resized in native code: the bytes of Pillow, whatever sizes, boxes and filters."""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL
import pytest
from PIL import Image

from bhvit import Session, _native
from bhvit.bundled import FOLDER
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


PILLOW_MAY_START_WITH_COLUMNS = int(PIL.__version__.split(".")[0]) >= 13
"""Older ones always start with rows, and then give other bytes for the pictures of `_columns_first`."""


def _columns_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    return height > new_height and height - new_height > 2 * (width - new_width)


def _pixels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, or flat areas with hard edges, where sums of weights go below 0 and beyond 255."""
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    return pixels if rng.integers(2) else (pixels > 127).astype(np.uint8) * 255


@pytest.mark.parametrize("filter", FILTERS)
def test_bytes_are_those_of_pillow(filter: str) -> None:
    """300 pairs of sizes for each filter: edges of one pixel, enlarging, reducing, one direction only, boxes."""
    rng = np.random.default_rng(len(filter))
    for trial in range(300):
        height, width, new_height, new_width = (int(n) for n in np.exp(rng.uniform(0, 5.3, 4)))
        if trial % 5 == 0:
            new_height = height
        if trial % 7 == 0:
            new_width = width
        box = (0.0, 0.0, float(width), float(height))
        if trial % 3 == 0:
            left, right = np.sort(rng.uniform(0, width, 2))
            top, bottom = np.sort(rng.uniform(0, height, 2))
            if right - left > 0.01 and bottom - top > 0.01:
                box = (left, top, right, bottom)
        if _columns_first(height, width, new_height, new_width) and not PILLOW_MAY_START_WITH_COLUMNS:
            continue
        pixels = _pixels(rng, height, width)
        expected = np.asarray(Image.fromarray(pixels).resize((new_width, new_height), FILTERS[filter], box=box))
        found = _native.resize(pixels, (new_height, new_width), filter, box)
        np.testing.assert_array_equal(found, expected, str((pixels.shape, new_height, new_width, box)))


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.9, 0.31])
def test_models_see_the_pixels_that_python_makes(crop: float) -> None:
    """`Preprocess.pixels` and native code, for pictures of every aspect, and the model's own size."""
    model = bhv_file.read(FOLDER / "cifar10.bhv")
    rng = np.random.default_rng(int(1000 * crop))
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos"):
        preprocess = dataclasses.replace(model.preprocess, crop=crop, interpolation=interpolation)
        session = Session(_with_preprocess(preprocess))
        for height, width in [(32, 32), (32, 41), (1, 1), (500, 1), (1, 300), (37, 36), (33, 35)] + [
            tuple(rng.integers(1, 200, 2)) for _ in range(20)
        ]:
            if _columns_first(int(height), int(width), 32, 32) and not PILLOW_MAY_START_WITH_COLUMNS:
                continue
            pixels = _pixels(rng, int(height), int(width))
            np.testing.assert_array_equal(session.program.fit(pixels), preprocess.pixels(pixels))


def _with_preprocess(preprocess: Preprocess) -> bytes:
    model = bhv_file.read(FOLDER / "cifar10.bhv")
    return bhv_file.to_bytes(dataclasses.replace(model, preprocess=preprocess))


@pytest.mark.parametrize("box", [(0, 0, 0, 4), (-1, 0, 4, 4), (0, 0, 5, 4), (3, 0, 2, 4)])
def test_boxes_outside_the_picture_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="the box is empty or goes beyond the picture"):
        _native.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), "bicubic", box)


def test_unknown_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown interpolation hamming"):
        _native.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), "hamming", (0, 0, 4, 4))
