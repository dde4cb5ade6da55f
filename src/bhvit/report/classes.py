"""Sections of a classifier's report: confusion matrix with its images, samples, corrupted images."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..calibration import probabilities
from ..data.corruptions import STRENGTHS
from ..errors import counted
from .elements import THUMBNAIL, picture, table
from .gallery import Shown, cell_id, gallery, shown_images
from .measure import Findings
from .page import Curves, Section
from .svg import confusion_matrix

SHOWN = 12
"""Samples of each kind on the page."""
LISTED_MISTAKES = 10
CURVES: list[Curves] = [("Accuracy (top-1)", [("training", 1, "train_top1"), ("validation", 2, "val_top1")])]


class Sample(NamedTuple):
    """An image and what the packed file said of it."""

    name: str
    image: Image.Image
    label: str
    answer: str
    probability: float
    """Of the answer, 0 to 1."""

    @property
    def right(self) -> bool:
        return self.label == self.answer


def class_sections(found: Findings) -> list[Section]:
    """What the packed file said of the images."""
    return [
        ("Confusion matrix", _confusion(found)),
        ("Samples", _samples(found)),
        ("Corrupted images", _robustness(found)),
    ]


def class_tiles(found: Findings) -> list[tuple[str, str, str]]:
    """Headline numbers: value, name, note."""
    comparison = found.comparison
    return [
        (f"{found.native.top1:.2%}", "accuracy of the packed file", f"PyTorch: {comparison.torch.top1:.2%}"),
        (f"{comparison.agreement:.2%}", "same answer as PyTorch", f"of {counted(len(found.dataset), 'image')}"),
    ]


def _confusion(found: Findings) -> str:
    confusion, names = found.native.confusion, found.file.class_names
    pictures = _pictures(found)
    links = {(one.label, one.answer): cell_id(one.label, one.answer) for one in pictures}
    matrix = confusion_matrix(confusion, names, links)
    shown = gallery(pictures, names)
    mistakes = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED_MISTAKES]
    rows = []
    for row, column in zip(*np.unravel_index(order, mistakes.shape)):
        if mistakes[row, column]:
            rows.append([names[row], names[column], f"{mistakes[row, column]} of {confusion[row].sum()}"])
    if not rows:
        return f"{matrix}<p>No mistakes.</p>{shown}"
    return f'<div class="columns">{matrix}{table(("true class", "taken for", "images"), rows)}</div>{shown}'


def _robustness(found: Findings) -> str:
    measured = found.robustness
    if measured is None:
        return ""
    header = ("corruption", *(f"strength {strength}" for strength in STRENGTHS), "mean")
    note = f"Accuracy on {counted(measured.images, 'image')}: {measured.clean:.1%} as they are, "
    return (
        f"<p>{note}{measured.mean:.1%} on average over corruptions and strengths.</p>{table(header, measured.rows())}"
    )


def _samples(found: Findings) -> str:
    right, wrong = _right_and_wrong(found)
    parts = []
    for heading, samples in (("Right", right), ("Most confidently wrong", wrong)):
        if samples:
            shown = "".join(_sample(sample) for sample in samples)
            parts.append(f'<h3>{heading}</h3><ul class="samples">{shown}</ul>')
    if right and not wrong:
        parts.append("<p>No image was classified wrongly.</p>")
    return "".join(parts)


def _pictures(found: Findings) -> list[Shown]:
    dataset = found.dataset
    return shown_images(found.native, dataset.image, lambda index: Path(dataset.name(index)).name, _temperature(found))


def _temperature(found: Findings) -> float:
    return found.file.calibration.temperature if found.file.calibration else 1.0


def _right_and_wrong(found: Findings) -> tuple[list[Sample], list[Sample]]:
    """Right answers, of each class in turn, and wrong ones, the most confident first."""
    answers, labels = found.native.predictions, found.native.labels
    confidence = probabilities(found.native.logits, _temperature(found)).max(axis=1)

    def sample(index: int) -> Sample:
        return Sample(
            name=Path(found.dataset.name(index)).name,
            image=found.dataset.image(index),
            label=found.dataset.class_names[labels[index]],
            answer=found.dataset.class_names[answers[index]],
            probability=float(confidence[index]),
        )

    right = np.flatnonzero(answers == labels)
    turn = np.zeros(len(labels), int)  # how many of its class come before an image
    for label in np.unique(labels[right]):
        members = right[labels[right] == label]
        turn[members] = np.arange(len(members))
    right = right[np.lexsort((labels[right], turn[right]))][:SHOWN]
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN]
    return [sample(int(index)) for index in right], [sample(int(index)) for index in wrong]


def _sample(sample: Sample) -> str:
    verdict = "right" if sample.right else "wrong"
    alt = f"{sample.name}: a {sample.label}, classified as {sample.answer} with {sample.probability:.0%}"
    said = f"{escape(sample.answer)} <small>{sample.probability:.1%}</small>"
    truth = "" if sample.right else f"<span>actually {escape(sample.label)}</span>"
    return (
        f'<li class="{verdict}"><img src="{picture(sample.image)}" alt="{escape(alt)}" width="{THUMBNAIL}">'
        f"<span>{said}</span>{truth}</li>"
    )
