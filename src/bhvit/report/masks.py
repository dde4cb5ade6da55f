"""Sections of a segmentation's report: classes, confusion of pixels, examples, worst images."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.mask_classes import IGNORED
from ..data.segmentation_metrics import Labels
from ..errors import counted, listed
from ..runtime.overlays import overlay, palette
from .elements import data_url, table
from .measure import MaskFindings
from .page import Curves, Section
from .svg import confusion_matrix

EXAMPLES, WORST = 4, 8
"""Images of each kind on the page."""
PANEL = 240
"""Longer edge of each of an image's panels in pixels."""
MAX_BYTES = 1 << 20
"""Of all pictures of a page, as they are written."""
PANELS = ("image", "mask", "labels", "wrong pixels")
WRONG = (226, 46, 30)
"""Colour of wrong pixels over the grey image."""
CURVES: list[Curves] = [
    ("Mean intersection over union", [("validation", 2, "val_miou")]),
    ("Pixel accuracy", [("training", 1, "train_pixel_accuracy"), ("validation", 2, "val_pixel_accuracy")]),
]


def mask_sections(found: MaskFindings) -> list[Section]:
    """How well the packed file labelled the images."""
    examples, worst = _chosen(found)
    left = MAX_BYTES
    lists = []
    for heading, indices in (("Lowest mIoU of an image", worst), ("Evenly chosen", examples)):
        items = []
        for index in indices:
            item = _item(found, index)
            left -= len(item)
            if left < 0:
                break
            items.append(item)
        if items:
            lists.append(f'<h3>{heading}</h3><ul class="masks">{"".join(items)}</ul>')
    note = f'<p class="note">Each picture: {", ".join(PANELS)}. Pixels without a label are black in the mask.</p>'
    shown = _legend(found.file.class_names) + note + "".join(lists) if lists else ""
    return [("Classes", _classes(found) + _confusion(found)), ("Images", shown)]


def mask_tiles(found: MaskFindings) -> list[tuple[str, str, str]]:
    """Headline numbers: value, name, note."""
    metrics, comparison = found.metrics, found.comparison
    return [
        (f"{metrics.miou:.2%}", "mIoU of the packed file", f"{metrics.pixel_accuracy:.2%} of pixels right"),
        (
            f"{comparison.agreement:.2%}",
            "same class as PyTorch",
            f"of the pixels of {counted(len(found.dataset), 'image')}",
        ),
    ]


def _classes(found: MaskFindings) -> str:
    """A row for each class, the worst first; classes that do not occur last."""
    counts, values = found.metrics.confusion, found.metrics.per_class
    pixels, given = counts.sum(axis=1), counts.sum(axis=0)
    rows = []
    for index in np.argsort(values, kind="stable"):
        right = counts[index, index]
        rows.append(
            [
                found.file.class_names[index],
                "–" if np.isnan(values[index]) else f"{values[index]:.1%}",
                f"{right / pixels[index]:.1%}" if pixels[index] else "–",
                f"{right / given[index]:.1%}" if given[index] else "–",
                f"{pixels[index] / max(1, pixels.sum()):.1%}",
            ]
        )
    header = ("class", "intersection over union", "of its pixels found", "of pixels given it right", "share of pixels")
    return table(header, rows)


def _confusion(found: MaskFindings) -> str:
    matrix = confusion_matrix(
        found.metrics.confusion,
        found.file.class_names,
        noun="pixels",
        text=lambda number, share: f"{100 * share:.0f}",
    )
    note = '<p class="note">Each row: percent of the pixels of a class, by the class they were given.</p>'
    return f"<h3>Confusion matrix of pixels</h3>{note}{matrix}"


def _chosen(found: MaskFindings) -> tuple[list[int], list[int]]:
    """Numbers of images, evenly chosen, and those of the lowest scores; without those that have no label."""
    count = len(found.dataset)
    even = sorted({int(index) for index in np.linspace(0, count - 1, EXAMPLES).round()})
    worst: list[int] = []
    for index in map(int, np.argsort(found.metrics.per_image, kind="stable")):
        if len(worst) < WORST and (found.dataset.mask(index) != IGNORED).any():
            worst.append(index)
        if len(worst) == WORST:
            break
    return even, worst


def _item(found: MaskFindings, index: int) -> str:
    image, mask = found.dataset.both(index)
    labels = found.session.segment(image)
    classes = len(found.file.class_names)
    masked = np.where(mask == IGNORED, classes, mask).astype(np.uint8)  # the palette's black
    wrong = (mask != labels) & (mask != IGNORED)
    strip = _strip([image, overlay(image, masked, classes), overlay(image, labels, classes), _mistakes(image, wrong)])
    name, score = Path(found.dataset.name(index)).name, found.metrics.per_image[index]
    share = wrong.sum() / max(1, (mask != IGNORED).sum())
    alt = (
        f"{name}: {', '.join(PANELS)}; mIoU {score:.1%}, {share:.1%} of the pixels wrong; found {_found(found, labels)}"
    )
    source = data_url(strip, "jpeg", quality=75)
    return (
        f'<li><img src="{source}" alt="{escape(alt)}" loading="lazy">'
        f"<span>{escape(name)} <small>mIoU {score:.1%}, {share:.1%} of the pixels wrong</small></span></li>"
    )


def _found(found: MaskFindings, labels: Labels) -> str:
    """The classes that labels have, the largest first."""
    counts = np.bincount(labels.reshape(-1), minlength=len(found.file.class_names))
    order = np.argsort(-counts, kind="stable")
    return listed(found.file.class_names[index] for index in order if counts[index])


def _mistakes(image: Image.Image, wrong: npt.NDArray[np.bool_]) -> Image.Image:
    grey = np.asarray(image.convert("L").convert("RGB"))
    return Image.fromarray(np.where(wrong[..., None], np.array(WRONG, np.uint8), grey))


def _strip(panels: list[Image.Image]) -> Image.Image:
    """Panels next to each other, each shrunk to `PANEL`."""
    scale = min(1.0, PANEL / max(panels[0].size))
    width, height = (max(1, round(scale * edge)) for edge in panels[0].size)
    strip = Image.new("RGB", (len(panels) * width, height))
    for place, panel in enumerate(panels):
        strip.paste(panel.convert("RGB").resize((width, height), Image.Resampling.BOX), (place * width, 0))
    return strip


def _legend(names: tuple[str, ...]) -> str:
    colours = palette(len(names))
    keys = "".join(
        f'<li><span class="key" style="background:#{bytes(colours[label]).hex()}"></span>{escape(name)}</li>'
        for label, name in enumerate(names)
    )
    return f'<ul class="legend swatches">{keys}</ul>'
