"""The report's page: what was measured, as one HTML file that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.corruptions import STRENGTHS, Robustness
from ..text import size_text
from ..timing import BUSY, Timing, busy
from .gallery import Shown, cell_id, gallery
from .svg import Series, bar, confusion_matrix, heat_map, line_chart
from .weights import WeightFindings

THUMBNAIL = 96
"""Longer edge of a sample's picture in pixels."""
LISTED_MISTAKES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """Everything the page shows. Empty parts are left out."""

    title: str
    subtitle: str
    tiles: Sequence[tuple[str, str, str]]
    """Headline numbers: value, name, note."""
    log: Sequence[Mapping[str, Any]]
    """Lines of log.jsonl."""
    chosen: int | None
    """The epoch whose model the page is about, None if unknown."""
    confusion: npt.NDArray[np.int64]
    class_names: Sequence[str]
    right: Sequence[Sample]
    wrong: Sequence[Sample]
    pictures: Sequence[Shown]
    """The gallery's."""
    robustness: Robustness | None
    weights: WeightFindings
    sizes: Sequence[tuple[str, int]]
    """What, and its bytes."""
    timings: Sequence[Timing]
    fidelity: Sequence[tuple[str, str]]
    model: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]

    def html(self) -> str:
        """The page as text."""
        sections = [
            ("Training", self._training()),
            ("Confusion matrix", self._confusion()),
            ("Samples", self._samples()),
            ("Corrupted images", self._robustness()),
            ("Size and speed", self._sizes() + self._speeds()),
            ("Agreement of the packed file with PyTorch", _pairs(self.fidelity)),
            ("Model", _pairs(self.model)),
            ("Environment and settings", _pairs(list(self.environment.items())) + self._settings()),
            ("Binary weights and attention", self._inside()),
        ]
        body = "".join(
            f"<section><h2>{escape(heading)}</h2>{content}</section>" for heading, content in sections if content
        )
        tiles = "".join(
            f"<li><strong>{escape(value)}</strong><span>{escape(name)}</span><small>{escape(note)}</small></li>"
            for value, name, note in self.tiles
        )
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(self.title)}</title><style>{style}</style></head><body>"
            f"<header><h1>{escape(self.title)}</h1><p>{escape(self.subtitle)}</p></header>"
            f'<main><ul class="tiles">{tiles}</ul>{body}</main></body></html>\n'
        )

    def _training(self) -> str:
        if not self.log:
            return ""

        def series(name: str, colour: int, key: str) -> Series:
            entries = [entry for entry in self.log if isinstance(entry.get(key), int | float)]
            return Series(name, colour, [e["epoch"] for e in entries], [e[key] for e in entries])

        accuracy = [series("training", 1, "train_top1"), series("validation", 2, "val_top1")]
        loss = [series("training", 1, "train_loss"), series("validation", 2, "val_loss")]
        mark = None if self.chosen is None else (self.chosen, f"this model: epoch {self.chosen}")
        charts = [
            line_chart(
                "Accuracy (top-1)", accuracy, "epoch", lambda y: f"{y:.4g}" if y > 1 else f"{100 * y:.3g} %", mark
            ),
            line_chart("Loss (cross entropy, nats)", loss, "epoch", lambda y: f"{y:.3g}", mark and (mark[0], "")),
            line_chart("Learning rate", [series("learning rate", 3, "lr")], "epoch", lambda y: f"{y:.2g}"),
        ]
        note = (
            "Training accuracy and loss are averages over an epoch of augmented images"
            " (and smoothed labels, if the settings say so); validation uses the images as they are."
        )
        return f'<div class="charts">{"".join(charts)}</div><p class="note">{note}</p>'

    def _inside(self) -> str:
        """Details for researchers, folded."""
        content = self._latent() + self._levels() + self._flips()
        return (
            f"<details><summary>Latent weights, attention levels, sign flips</summary>{content}</details>"
            if content
            else ""
        )

    def _flips(self) -> str:
        """Signs that changed, by layer and epoch, where the log has them."""
        entries = [entry for entry in self.log if isinstance(entry.get("flipped"), dict)]
        if not entries:
            return ""
        layers = list(entries[-1]["flipped"])
        epochs = [str(entry["epoch"]) for entry in entries]
        maps = []
        for title, key in (
            ("Weights whose sign changed, by epoch", "flipped"),
            ("Of these, changed back: oscillating", "oscillating"),
        ):
            values = np.array([[_number(entry.get(key), layer) for entry in entries] for layer in layers])
            if np.isfinite(values).any():
                maps.append(heat_map(title, layers, epochs, values, _percent))
        return "".join(maps)

    def _latent(self) -> str:
        if not self.weights.latent:
            return ""
        middles = ((self.weights.edges[1:] + self.weights.edges[:-1]) / 2).tolist()
        axis = "latent weight"
        charts = [
            line_chart(f"Latent weights, {stage}", [Series(stage, 1, middles, shares.tolist())], axis, _percent)
            for stage, shares in self.weights.latent.items()
        ]
        note = "Near 0 a sign is about to change; the regularisation loss draws latent weights to -1 and +1."
        return f'<div class="charts">{"".join(charts)}</div><p class="note">{note}</p>'

    def _levels(self) -> str:
        if not self.weights.levels:
            return ""
        rows = [[name, *(f"{share:.2%}" for share in shares)] for name, shares in self.weights.levels.items()]
        return "<h3>Levels that attention uses</h3>" + _table(("block", *map(str, range(len(rows[0]) - 1))), rows)

    def _confusion(self) -> str:
        confusion = self.confusion
        links = {(one.label, one.answer): cell_id(one.label, one.answer) for one in self.pictures}
        matrix = confusion_matrix(confusion, self.class_names, links)
        shown = gallery(self.pictures, self.class_names)
        mistakes = confusion - np.diag(confusion.diagonal())
        order = np.argsort(-mistakes, axis=None, kind="stable")[:LISTED_MISTAKES]
        rows = []
        for row, column in zip(*np.unravel_index(order, mistakes.shape)):
            if mistakes[row, column]:
                number = int(mistakes[row, column])
                of = int(confusion[row].sum())
                rows.append([self.class_names[row], self.class_names[column], f"{number} of {of}"])
        if not rows:
            return f"{matrix}<p>No mistakes.</p>{shown}"
        return f'<div class="columns">{matrix}{_table(("true class", "taken for", "images"), rows)}</div>{shown}'

    def _robustness(self) -> str:
        if self.robustness is None:
            return ""
        header = ("corruption", *(f"strength {strength}" for strength in STRENGTHS), "mean")
        note = f"Accuracy on {self.robustness.images} images: {self.robustness.clean:.1%} as they are, "
        return (
            f"<p>{note}{self.robustness.mean:.1%} on average over corruptions and strengths.</p>"
            f"{_table(header, self.robustness.rows())}"
        )

    def _samples(self) -> str:
        parts = []
        for heading, samples in (("Right", self.right), ("Most confidently wrong", self.wrong)):
            if samples:
                shown = "".join(_sample(sample) for sample in samples)
                parts.append(f'<h3>{heading}</h3><ul class="samples">{shown}</ul>')
        if self.right and not self.wrong:
            parts.append("<p>No image was classified wrongly.</p>")
        return "".join(parts)

    def _sizes(self) -> str:
        if not self.sizes:
            return ""
        largest = max(size for _, size in self.sizes)
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{size_text(size)}</td>'
            f"<td>{_factor(largest / size, 'smaller')}</td>"
            f'<td class="wide">{bar(size / largest, 1 if index == 0 else 4)}</td></tr>'
            for index, (name, size) in enumerate(self.sizes)
        )
        return f'<h3>Bytes</h3><div class="scroll" tabindex="0"><table class="bars">{rows}</table></div>'

    def _speeds(self) -> str:
        if not self.timings:
            return ""
        slowest = max(timing.median for timing in self.timings)
        torch = {(t.threads, t.batch): t.median for t in self.timings if t.name == "PyTorch"}

        def faster(t: Timing) -> str:
            slower = torch.get((t.threads, t.batch))
            return "" if slower is None or t.name == "PyTorch" else _factor(slower / t.median, "faster")

        rows = "".join(
            f'<tr><th scope="row">{escape(t.name)}</th><td>{escape(t.isa)}</td><td>{t.threads}</td><td>{t.batch}</td>'
            f"<td>{t.median:.3f}</td><td>{faster(t)}</td><td>{t.p10:.3f} – {t.p90:.3f}</td>"
            f'<td class="wide">{bar(t.median / slowest, 1 if t.name == "bhvit" else 4)}</td></tr>'
            for t in self.timings
        )
        head = "".join(
            f'<th scope="col">{name}</th>'
            for name in ("", "arithmetic", "threads", "batch", "median", "than PyTorch", "10th – 90th percentile", "")
        )
        return (
            '<h3>Milliseconds per image</h3><div class="scroll" tabindex="0"><table class="bars">'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
            '<p class="note">All rows were measured in turns on this machine, on the same prepared images;'
            " shorter bars are better. PyTorch runs the checkpoint as it was trained, in float32.</p>"
            + (f'<p class="note">{escape(BUSY)}.</p>' if busy(self.timings) else "")
        )

    def _settings(self) -> str:
        if not self.settings:
            return ""
        rows = [[name, _setting(value)] for name, value in self.settings.items()]
        return f"<details><summary>All settings of the run</summary>{_table(('setting', 'value'), rows)}</details>"


def _sample(sample: Sample) -> str:
    verdict = "right" if sample.right else "wrong"
    alt = f"{sample.name}: a {sample.label}, classified as {sample.answer} with {sample.probability:.0%}"
    said = f"{escape(sample.answer)} <small>{sample.probability:.1%}</small>"
    truth = "" if sample.right else f"<span>actually {escape(sample.label)}</span>"
    return (
        f'<li class="{verdict}"><img src="{_picture(sample.image)}" alt="{escape(alt)}" width="{THUMBNAIL}">'
        f"<span>{said}</span>{truth}</li>"
    )


def _picture(image: Image.Image) -> str:
    """A thumbnail as a data URL: small images enlarged without smoothing, large ones shrunk."""
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if max(image.size) < THUMBNAIL:
        factor = THUMBNAIL // max(image.size) or 1
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        kind, options = "png", {"optimize": 1}
    else:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        kind, options = "jpeg", {"quality": 80}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="scroll" tabindex="0"><table class="pairs">{body}</table></div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _factor(ratio: float, what: str) -> str:
    """A ratio in words: 250 × faster; nothing where there is no difference worth a word."""
    return f"{ratio:.3g} × {what}" if ratio >= 1.05 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _number(table: Any, name: str) -> float:
    """What a table of the log has under a name, NaN for nothing or no number."""
    value = table.get(name) if isinstance(table, dict) else None
    return float(value) if isinstance(value, int | float) else float("nan")


def _setting(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)
