"""Label maps of pictures of any size, by resizing or by windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..bits import Floats
from ..errors import UserError, shown

Labels = npt.NDArray[np.uint8]
OVERLAP = 0.25
"""Share of a window that the next one covers, unless told otherwise."""
MAX_WINDOW_FLOATS = 1 << 28
"""Logits of a whole picture that windows are added up in: classes * height * width, 1 GiB."""


def check_overlap(overlap: object) -> float:
    """Return a share of a window, or raise UserError."""
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise UserError(f"overlap must be at least 0 and below 1, not {shown(overlap)}")
    return float(overlap)


def resized(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize a label map (H, W) to `size` (height, width) by nearest neighbours."""
    if labels.shape == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def starts(edge: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along an edge.

    They are as few as overlap by the share `overlap` of a window or more, evenly spread.
    """
    step = max(1, int(window * (1 - overlap)))
    count = 1 + max(0, -(-(edge - window) // step))
    return [round(index * (edge - window) / max(1, count - 1)) for index in range(count)]


def windows(size: tuple[int, int], window: tuple[int, int], overlap: float) -> Iterator[tuple[int, int]]:
    """Top left corners (row, column) of windows that cover a picture."""
    for top in starts(size[0], window[0], overlap):
        for left in starts(size[1], window[1], overlap):
            yield top, left


def check_size(size: tuple[int, int], classes: int) -> None:
    """Raises UserError for a picture of `size` (height, width) whose logits windows cannot add up."""
    height, width = size
    if classes * height * width > MAX_WINDOW_FLOATS:
        raise UserError(
            f"a picture of {width}x{height} pixels and {classes} classes is too large for windows: resize it, or leave "
            "windows out"
        )


def covered(
    pixels: Labels, window: tuple[int, int], overlap: float, classes: int, run: Callable[[Labels], Floats]
) -> Labels:
    """Label pixels (H, W, C) by windows that cover them: uint8 (H, W).

    A pixel's label has the largest sum of logits over the windows that cover it. H and W are at least a window's. `run`
    gives the logits (classes, height, width) of one window's pixels. Sums are float32, in the order of the windows.
    Raises UserError for a picture that is too large.
    """
    height, width = pixels.shape[:2]
    check_size((height, width), classes)
    total = np.zeros((classes, height, width), np.float32)
    for top, left in windows((height, width), window, overlap):
        bottom, right = top + window[0], left + window[1]
        total[:, top:bottom, left:right] += run(pixels[top:bottom, left:right])
    return np.asarray(total.argmax(axis=0).astype(np.uint8))
