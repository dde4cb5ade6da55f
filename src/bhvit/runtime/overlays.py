"""Label maps as images: index PNGs with a palette, and overlays on the picture."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import UserError

Labels = npt.NDArray[np.uint8]
MAX_JPEG_EDGE = 65_500
"""Pixels of an edge that libjpeg encodes."""
_GOLDEN = 0.61803398875


def palette(classes: int) -> npt.NDArray[np.uint8]:
    """Return the colours of classes, uint8 (256, 3).

    Neighbours have hues far apart; labels that are no class are black.
    """
    numbers = np.arange(classes)
    hue = (numbers * _GOLDEN) % 1
    value = np.where(numbers % 2 == 0, 0.95, 0.7)
    sector = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    ramp = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    colours = np.zeros((256, 3), np.uint8)
    colours[:classes] = np.rint(255 * value[:, None] * (1 - 0.85 * ramp)).astype(np.uint8)
    return colours


def index_image(labels: Labels, classes: int) -> Image.Image:
    """Return a label map (H, W) as an image of mode P with a palette."""
    image = Image.fromarray(labels).convert("L")
    image.putpalette(palette(classes).tobytes())
    return image


def overlay(
    picture: Image.Image | npt.NDArray[np.uint8], labels: Labels, classes: int, alpha: float = 0.5
) -> Image.Image:
    """Draw the colours of labels (H, W) over a picture, with opacity `alpha`: RGB."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    colours = Image.fromarray(palette(classes)[labels])
    return Image.blend(image.convert("RGB"), colours, alpha)


def jpeg(image: Image.Image) -> bytes:
    """Encode an image as a JPEG file.

    Raises UserError for an edge of more than MAX_JPEG_EDGE pixels.
    """
    if max(image.size) > MAX_JPEG_EDGE:
        raise UserError(f"a picture of {image.width}x{image.height} pixels is too long for a JPEG file")
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def legend(labels: Labels, class_names: tuple[str, ...], limit: int = 8) -> list[str]:
    """List the classes that cover most of a label map, with their shares."""
    counts = np.bincount(labels.reshape(-1), minlength=len(class_names))
    order = [int(index) for index in np.argsort(-counts, kind="stable")[:limit] if counts[index]]
    return [f"{100 * counts[index] / labels.size:5.1f} %  {class_names[index]}" for index in order]
