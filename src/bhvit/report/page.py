"""The report's page: one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..text import size_text
from ..timing import BUSY, Timing, busy
from .elements import pairs, table
from .svg import Series, bar, heat_map, line_chart
from .weights import WeightFindings

Section = tuple[str, str]
"""A heading, and what is below it as HTML; none if that is empty."""
Curves = tuple[str, Sequence[tuple[str, int, str]]]
"""A chart's title, and its lines: name, number of the colour, key in the log."""


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
    curves: Sequence[Curves]
    """Of what the log has, before those of the loss."""
    results: Sequence[Section]
    """What was found on the images."""
    weights: WeightFindings
    sizes: Sequence[tuple[str, int]]
    """What, and its bytes."""
    timings: Sequence[Timing]
    fidelity: Sequence[tuple[str, str]]
    model: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    browser: str = ""
    """An HTML page that runs the model, if it is to be embedded."""

    def html(self) -> str:
        """The page as text."""
        sections = [
            ("Training", self._training()),
            *self.results,
            ("The model in your browser", self._browser()),
            ("Size and speed", self._sizes() + self._speeds()),
            ("Agreement of the packed file with PyTorch", pairs(self.fidelity)),
            ("Model", pairs(self.model)),
            ("Environment and settings", pairs(list(self.environment.items())) + self._settings()),
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

    def _browser(self) -> str:
        if not self.browser:
            return ""
        return f'<iframe title="The model in your browser" loading="lazy" srcdoc="{escape(self.browser)}"></iframe>'

    def _training(self) -> str:
        if not self.log:
            return ""

        def series(name: str, colour: int, key: str) -> Series:
            entries = [entry for entry in self.log if isinstance(entry.get(key), int | float)]
            return Series(name, colour, [e["epoch"] for e in entries], [e[key] for e in entries])

        loss = [series("training", 1, "train_loss"), series("validation", 2, "val_loss")]
        mark = None if self.chosen is None else (self.chosen, f"this model: epoch {self.chosen}")
        charts = [
            *(
                line_chart(
                    title,
                    [series(*line) for line in lines],
                    "epoch",
                    lambda y: f"{y:.4g}" if y > 1 else f"{100 * y:.3g} %",
                    mark if index == 0 else mark and (mark[0], ""),
                )
                for index, (title, lines) in enumerate(self.curves)
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
        return "<h3>Levels that attention uses</h3>" + table(("block", *map(str, range(len(rows[0]) - 1))), rows)

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
            return "" if slower is None or t.name == "PyTorch" else _factor(slower / t.median, "faster", "slower")

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
        return f"<details><summary>All settings of the run</summary>{table(('setting', 'value'), rows)}</details>"


def _factor(ratio: float, what: str, otherwise: str = "") -> str:
    """A ratio in words: 250 × faster; nothing where there is no difference worth a word.

    `otherwise` is what a ratio below 1 is: 2 × slower.
    """
    if otherwise and 0 < ratio < 1:
        ratio, what = 1 / ratio, otherwise
    if ratio < 1.05:
        return ""
    return f"{ratio:.3g} × {what}" if ratio < 1000 else f"{ratio:,.0f} × {what}"


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
