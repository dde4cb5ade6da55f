"""Charts as inline SVG, coloured by the page's style sheet.

All text from outside is escaped here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

_LETTER = 8.6
"""Width of a letter of a chart's labels on a phone, where they are larger, in the chart's units."""
WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 42
"""Margins of a chart in its own units: tick labels to the left and below."""
LABELLED_CLASSES = 24
"""Confusion matrices of more classes are drawn without counts and names."""

_LARGEST = 1e100
"""Largest value that a chart draws: differences of larger ones may not be finite."""
MOST_COLUMNS = 120
"""Columns of a heat map; of more, neighbours are drawn as one, with their mean."""
MOST_DOTS = 200
"""Points of a line that are marked and say their value."""
MOST_POINTS = 2000
"""Points that a line is drawn through."""


@dataclasses.dataclass(frozen=True)
class Series:
    """A line: its name, its colour's number in the style sheet, and its points."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    show: Callable[[float], str],
    marked: tuple[float, str] | None = None,
) -> str:
    """Draw lines over a common grid, with a legend if there are several.

    `show` writes values of y; `marked` is a place on the x axis and what to call it.

    Points that are not finite are left out, which the chart says.
    """
    lines = [
        (line, [(float(x), float(y)) for x, y in zip(line.x, line.y) if _drawable(x) and _drawable(y)])
        for line in series
    ]
    points = [point for _, line in lines for point in line]
    values = sum(len(line.y) for line in series)
    lost = values - len(points)
    left_out = f"{lost} of {values} values are left out: not finite, or too large" if lost else ""
    if not points:
        return f"<p>{escape(title)}: {left_out or 'nothing was logged'}.</p>"
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    left = max(LEFT, 12 + _LETTER * max(len(show(tick)) for tick in y_ticks))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low)
        return left + across * (WIDTH - left - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{left:g}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8:g}" y="{y + 4:.1f}" text-anchor="end">{escape(show(tick))}</text>')
    for tick in _whole_ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    if marked is not None and x_low <= marked[0] <= x_high:
        x, _ = place(marked[0], y_low)
        side = "end" if x > (left + WIDTH - RIGHT) / 2 else "start"
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        across = x + (-6 if side == "end" else 6)
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM - 8}" text-anchor="{side}">{escape(marked[1])}</text>'
        )
    middle = (left + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for line, its in lines:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in _thinned(its, MOST_POINTS)))
        parts.append(f'<polyline class="line c{line.colour}" points="{path}"/>')
        radius = 3 if len(its) <= 60 else 1.5
        for x, y in _thinned(its, MOST_DOTS):
            across, up = place(x, y)
            hint = escape(f"{line.name}, {x_label} {x:g}: {show(y)}")
            parts.append(
                f'<circle class="dot c{line.colour}" cx="{across:.1f}" cy="{up:.1f}" r="{radius}">'
                f"<title>{hint}</title></circle>"
            )
    ends = "; ".join(f"{line.name} ends at {show(its[-1][1])}" for line, its in lines if its)
    note = f'<p class="note">{left_out}.</p>' if left_out else ""
    legend = ""
    if len(series) > 1:
        drawn = [line for line, its in lines if its]
        keys = "".join(f'<li><span class="key k{line.colour}"></span>{escape(line.name)}</li>' for line in drawn)
        legend = f'<ul class="legend">{keys}</ul>'
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{legend}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {ends}")}">'
        f"{''.join(parts)}</svg>{note}</figure>"
    )


def confusion_matrix(
    confusion: npt.NDArray[np.int64],
    names: Sequence[str],
    choices: Mapping[tuple[int, int], str] | None = None,
    *,
    noun: str = "images",
    text: Callable[[int, float], str] = lambda number, share: str(number),
) -> str:
    """Draw counts by true class (rows) and answer (columns).

    Right answers and mistakes have two colours.

    Cells are shaded by their share of the row; `text` writes number and share into a cell. With many classes names and
    texts are left out. A click on a cell of `choices` chooses the radio button of that id. `noun` is what is counted.
    """
    count = len(names)
    labelled = count <= LABELLED_CLASSES
    cell = 38 if labelled else max(3, 640 // count)
    short = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    # 7.4: the width of a letter of the page's tick labels
    longest = max(len(name) for name in short)
    left = 34 + 7.4 * longest if labelled else 28
    turned = longest > 3  # names above the columns stand upright
    top = (left if turned else 46) if labelled else 28
    width, height = left + count * cell + 4, top + count * cell + 4
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares = confusion / totals
    parts = []
    box = f'width="{cell - 1}" height="{cell - 1}"'
    for row, column in np.ndindex(count, count) if labelled else map(tuple, np.argwhere(confusion)):
        number, share = int(confusion[row, column]), float(shares[row, column])
        place = f'x="{left + column * cell:.1f}" y="{top + row * cell:.1f}" {box}'
        if labelled:
            parts.append(f'<rect class="cell" {place}/>')
        if number == 0:
            continue
        kind = "right" if row == column else "wrong"
        opacity = 0.25 + 0.75 * share  # a single mistake among many must still be seen
        hint = escape(f"{names[row]} taken for {names[column]}: {number} ({share:.1%})")
        parts.append(f'<rect class="{kind}" {place} fill-opacity="{opacity:.2f}"><title>{hint}</title></rect>')
        if labelled:
            strong = " strong" if opacity > 0.6 else ""
            x, y = left + (column + 0.5) * cell - 0.5, top + (row + 0.5) * cell + 4
            parts.append(f'<text class="count{strong}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">')
            parts.append(f"{escape(text(number, share))}</text>")
        if choice := (choices or {}).get((row, column)):
            label = f'<label for="{choice}" title="{hint}"></label>'
            parts.append(f"<foreignObject {place}>{label}</foreignObject>")
    if labelled:
        for index, name in enumerate(short):
            middle = index * cell + cell / 2
            parts.append(f'<text x="{left - 8:.1f}" y="{top + middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
            x, y = left + middle + 4, top - 8
            parts.append(
                f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)">{escape(name)}</text>'
                if turned
                else f'<text x="{x - 4:.1f}" y="{y:.1f}" text-anchor="middle">{escape(name)}</text>'
            )
    side = top + count * cell / 2
    parts.append(f'<text class="axis" x="{left + count * cell / 2:.1f}" y="12" text-anchor="middle">answer</text>')
    parts.append(
        f'<text class="axis" transform="translate(12 {side:.1f}) rotate(-90)" text-anchor="middle">true class</text>'
    )
    right = int(confusion.diagonal().sum())
    listed = "; the table below lists mistakes" if noun == "images" else ""
    label = escape(f"Confusion matrix: {right} of {int(confusion.sum())} {noun} right{listed}")
    return (
        f'<div class="scroll" tabindex="0"><svg class="matrix" style="width:{width:.0f}px" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg></div>'
    )


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: npt.NDArray[np.float64],
    show: Callable[[float], str],
) -> str:
    """Draw values (rows, columns) of at least 0 as shades, with their scale.

    Values that are not finite are left blank.
    """
    columns, values = _binned(columns, np.where(np.abs(values) <= _LARGEST, values, np.nan))
    cell, longest = 14, max(map(len, rows))
    left, top = 12 + 7.4 * longest, 20
    wide = max(3.0, min(28.0, 480 / len(columns)))
    width, height = left + wide * len(columns) + 4, top + cell * len(rows) + 4
    largest = float(np.nanmax(values, initial=0.0)) or 1.0
    parts = []
    for row, name in enumerate(rows):
        y = top + row * cell
        parts.append(f'<text x="{left - 8:.1f}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
        for column, label in enumerate(columns):
            value = float(values[row, column])
            if math.isfinite(value):
                hint = escape(f"{name}, epoch {label}: {show(value)}")
                opacity = 0.05 + 0.95 * max(value, 0.0) / largest
                parts.append(
                    f'<rect class="right" x="{left + column * wide:.1f}" y="{y}" width="{wide - 0.5:.1f}" '
                    f'height="{cell - 1}" fill-opacity="{opacity:.2f}"><title>{hint}</title></rect>'
                )
    for column in sorted({0, len(columns) - 1}):
        middle = left + (column + 0.5) * wide
        parts.append(f'<text x="{middle:.1f}" y="14" text-anchor="middle">{escape(columns[column])}</text>')
    label = escape(f"{title}: the largest is {show(largest)}")
    return (
        f'<figure class="chart heat"><figcaption>{escape(title)}</figcaption>'
        f'<p class="scale">{escape(show(0.0))}<span aria-hidden="true"></span>{escape(show(largest))}</p>'
        f'<div class="scroll" tabindex="0"><svg class="matrix" style="width:{width:.0f}px" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{label}">{"".join(parts)}</svg></div></figure>'
    )


def bar(share: float, colour: int) -> str:
    """A bar of `share` (0 to 1) of the full length, for a table's cell."""
    width = max(0.5, 100 * min(share, 1.0))
    return f'<span class="bar" aria-hidden="true"><span class="k{colour}" style="width:{width:.2f}%"></span></span>'


def _thinned(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """At most about `most` of the points, evenly chosen, the last one always."""
    every = math.ceil(len(points) / most)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def _binned(columns: Sequence[str], values: npt.NDArray[np.float64]) -> tuple[Sequence[str], npt.NDArray[np.float64]]:
    """Columns of a heat map, of many only means of neighbours, and their names."""
    width = math.ceil(len(columns) / MOST_COLUMNS)
    if width <= 1:
        return columns, values
    starts = range(0, len(columns), width)
    names = [f"{columns[start]} to {columns[min(start + width, len(columns)) - 1]}" for start in starts]
    present = np.isfinite(values)
    sums = np.add.reduceat(np.where(present, values, 0.0), list(starts), axis=1)
    counts = np.add.reduceat(present.astype(np.float64), list(starts), axis=1)
    return names, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that enclose low..high, about `count` of them."""
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _whole_ticks(low: float, high: float) -> list[float]:
    """Whole numbers within low..high, at most about eight."""
    step = max(1, math.ceil((high - low) / 8))
    step = next((nice for nice in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000) if nice >= step), step)
    return [float(tick) for tick in range(math.ceil(low / step) * step, math.floor(high) + 1, step)] or [low]


def _drawable(value: float) -> bool:
    """Whether a value can be placed on an axis."""
    return abs(value) <= _LARGEST
