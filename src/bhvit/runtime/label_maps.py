"""Label maps of pictures of any size, by resizing or by windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..bits import Floats
from ..errors import UserError, shown

Labels = npt.NDArray[np.uint8]
OVERLAP = 0.25
"""Share of a window that the next one covers, unless told otherwise."""
MAX_WINDOW_FLOATS = 1 << 28
"""Logits that windows are added up in, those of as many rows as a window has: 1 GiB."""
MAX_LABELS = 1 << 27
"""Pixels of a picture that windows cover, after it was enlarged where it is smaller than one."""


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


def check_size(size: tuple[int, int], window: tuple[int, int], classes: int) -> None:
    """Raises UserError for a picture of `size` (height, width) whose logits windows cannot add up."""
    height, width = size
    if classes * window[0] * width > MAX_WINDOW_FLOATS or height * width > MAX_LABELS:
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
    check_size((height, width), window, classes)
    labels = np.empty((height, width), np.uint8)
    band = np.zeros((classes, window[0], width), np.float32)  # the sums of the rows that a row of windows covers
    tops = starts(height, window[0], overlap)
    for top, following in zip(tops, [*tops[1:], height]):
        for left in starts(width, window[1], overlap):
            right = left + window[1]
            band[:, :, left:right] += run(pixels[top : top + window[0], left:right])
        done = following - top  # rows that no later window covers
        labels[top:following] = band[:, :done].argmax(axis=0)
        band = np.concatenate([band[:, done:], np.zeros((classes, done, width), np.float32)], axis=1)
    return labels
