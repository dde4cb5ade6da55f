"""Small folders of images with masks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("sky", "road", "car", "unlabelled")


def encoded(array: np.ndarray, kind: str = "PNG", palette: bool = False) -> bytes:
    image = Image.fromarray(array)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def mask_of(index: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 3, size).astype(np.uint8)


def make(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 3, masks: str = "masks") -> Path:
    """A folder of small images with masks."""
    for number, split in enumerate(splits):
        for kind in ("images", masks):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture = np.random.default_rng(index).integers(0, 256, (6, 8, 3)).astype(np.uint8)
            (root / "images" / split / f"{index}.jpg").write_bytes(encoded(picture, "JPEG"))
            mask = mask_of(10 * number + index)
            (root / masks / split / f"{index}.png").write_bytes(encoded(mask, palette=index == 1))
    (root / "classes.txt").write_text("".join(f"{index}\t{name}\n" for index, name in enumerate(NAMES)))
    return root
