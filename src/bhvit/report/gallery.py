"""Images of a report, chosen by class and answer, shown without a script.

Their bytes are bounded; a click chooses which are shown.

Each choice is a radio button; style rules show the images of the one that is checked. So the page needs nothing but a
browser, and a hostile name stays text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..calibration import probabilities
from ..data.metrics import Metrics

MAX_BYTES = 1 << 20
"""Of all pictures of a page's gallery, as they are written."""
EDGE = 64
"""Longer edge of a large image's thumbnail; smaller images are written as they are."""
LISTED = 24
"""Images of each list: the most confidently wrong, the least certain."""
PER_CELL = 6
"""Wrong images of a cell of the confusion matrix; of right ones half as many."""
FILTERED_CLASSES = 24
"""Up to this many classes can be chosen by name."""


class Shown(NamedTuple):
    """A picture of the gallery."""

    source: str
    """A data URL."""
    name: str
    label: int
    answer: int
    probability: float
    """Of the answer."""
    lists: tuple[str, ...]
    """Of "wrong", "unsure": where it is shown besides its cell and classes."""


def choose(found: Metrics, temperature: float = 1.0) -> tuple[dict[int, tuple[str, ...]], npt.NDArray[np.float64]]:
    """Choose the images to show, the most useful first, and their lists.

    Returns the lists of each image by number, and the probability of each image's answer, (N,).
    """
    chances = probabilities(found.logits, temperature)
    confidence = chances.max(axis=1)
    answers, labels = found.predictions, found.labels
    wrong = np.flatnonzero(answers != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")]
    unsure = np.argsort(confidence, kind="stable")[:LISTED]
    lists: dict[int, tuple[str, ...]] = {int(index): ("wrong",) for index in worst[:LISTED]}
    for index in map(int, unsure):
        lists[index] = (*lists.get(index, ()), "unsure")
    # Then each cell's most confident images, one of every cell before a second of any, large cells first.
    cells: dict[tuple[int, int], list[int]] = {}
    for index in map(int, np.argsort(-confidence, kind="stable")):
        cells.setdefault((int(labels[index]), int(answers[index])), []).append(index)
    for turn in range(PER_CELL):
        for (label, answer), members in sorted(cells.items(), key=lambda cell: -len(cell[1])):
            if turn < min(len(members), PER_CELL if label != answer else PER_CELL // 2):
                lists.setdefault(members[turn], ())
    return lists, confidence


def shown_images(
    found: Metrics, image: Callable[[int], Image.Image], name: Callable[[int], str], temperature: float = 1.0
) -> list[Shown]:
    """Return as many pictures of a gallery as `MAX_BYTES` holds.

    `image` and `name` give those of a number.
    """
    lists, confidence = choose(found, temperature)
    pictures, left = [], MAX_BYTES
    for index, its in lists.items():
        source = _thumbnail(image(index))
        left -= len(source)
        if left < 0:
            break
        pictures.append(
            Shown(source, name(index), int(found.labels[index]), int(found.predictions[index]), confidence[index], its)
        )
    return pictures


def cell_id(label: int, answer: int) -> str:
    """Return the id of the choice that shows a confusion matrix cell's images."""
    return f"cell-{label}-{answer}"


def gallery(pictures: Sequence[Shown], class_names: Sequence[str]) -> str:
    """Draw the gallery; "" without pictures."""
    if not pictures:
        return ""
    choices: list[tuple[str, str, Iterable[Shown]]] = [
        ("list-wrong", "Most confidently wrong", [one for one in pictures if "wrong" in one.lists]),
        ("list-unsure", "Least certain", [one for one in pictures if "unsure" in one.lists]),
    ]
    if len(class_names) <= FILTERED_CLASSES:
        choices += [
            (f"class-{label}", name, [one for one in pictures if one.label == label])
            for label, name in enumerate(class_names)
        ]
    choices = [choice for choice in choices if choice[2]]
    named = {choice for choice, _, _ in choices}
    cells = sorted({(one.label, one.answer) for one in pictures})
    buttons = "".join(
        f'<input type="radio" name="shown" id="{choice}"{" checked" if index == 0 else ""}/>'
        f'<label for="{choice}">{escape(text)}</label>'
        for index, (choice, text, _) in enumerate(choices)
    )
    # A cell's button is the cell itself: its radio button is there for the keyboard, with the cell's name.
    hidden = "".join(
        f'<input type="radio" name="shown" id="{cell_id(*cell)}" class="cell-choice" '
        f'aria-label="{escape(f"{class_names[cell[0]]} taken for {class_names[cell[1]]}")}"/>'
        for cell in cells
    )
    rules = "".join(
        f"main:has(#{choice}:checked) .gallery li:not(.{choice}){{display:none}}"
        for choice in [*sorted(named), *(cell_id(*cell) for cell in cells)]
    )
    items = "".join(_item(one, class_names, named) for one in pictures)
    return (
        f'<h3>Images</h3><p class="note">Choose a list or a class here, or click a cell of the matrix. '
        f"{len(pictures)} of the images are on this page.</p>"
        f'<div class="choices">{buttons}{hidden}</div><style>{rules}</style>'
        f'<ul class="samples gallery">{items}</ul>'
    )


def _item(one: Shown, class_names: Sequence[str], named: set[str]) -> str:
    answer, label = class_names[one.answer], class_names[one.label]
    own = [f"list-{name}" for name in one.lists] + [f"class-{one.label}"]
    groups = " ".join([cell_id(one.label, one.answer), *(group for group in own if group in named)])
    right = one.label == one.answer
    alt = f"{one.name}: a {label}, classified as {answer} with {one.probability:.0%}"
    truth = "" if right else f"<span>actually {escape(label)}</span>"
    return (
        f'<li class="{"right" if right else "wrong"} {groups}"><img src="{one.source}" alt="{escape(alt)}" '
        f'width="96" loading="lazy"><span>{escape(answer)} <small>{one.probability:.1%}</small></span>{truth}</li>'
    )


def _thumbnail(image: Image.Image) -> str:
    """A small picture as a data URL, in the shorter of two encodings."""
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    image.thumbnail((EDGE, EDGE))
    best = ""
    for kind, options in (("png", {"optimize": 1}), ("jpeg", {"quality": 75})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        text = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        best = text if not best or len(text) < len(best) else best
    return best
