"""Training's random crops of JPEG files that are decoded at a fraction of their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bhvit.data.dataset import open_dataset
from bhvit.image import Preprocess
from bhvit.train.loader import _Decoder
from bhvit.train.settings import BatchSettings


def test_a_crop_is_the_same_part_of_the_picture(tmp_path: Path) -> None:
    y, x = np.mgrid[0:480, 0:640]
    pixels = np.stack([x * 255 / 639, y * 255 / 479, (x + y) % 256], axis=2).astype(np.uint8)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels).save(tmp_path / kind / "a.jpg", quality=95)
        Image.fromarray(pixels).save(tmp_path / kind / "b.png")
    dataset = open_dataset(tmp_path, "all")
    settings = BatchSettings(augment="resized-crop")
    full: Any
    draft: Any
    full, draft = (_Decoder(dataset, Preprocess(size=(32, 32), crop=1.0, draft=draft), settings) for draft in (0, 1))
    differs = 0
    for index in range(len(dataset)):
        for copy in range(8):
            expected, found = (
                decoder[(0, index, copy)].numpy()[..., :2].astype(int) for decoder in (full, draft)
            )  # the first two channels say where a pixel comes from
            distance = np.abs(found - expected)
            if dataset.name(index).endswith("png"):
                assert distance.max() == 0
            else:
                assert distance.mean() < 3, (index, copy)
                differs += int(distance.max() > 0)
    assert differs > 0
