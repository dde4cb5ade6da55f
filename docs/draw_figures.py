"""Draw the figures of README and documentation as SVG: `python docs/draw_figures.py` writes docs/figures/.

Two figures plot rows of benchmark pages: accuracy-latency those of benchmarks/latency/peers.md, front those of
benchmarks/accuracy/front.md. A test fails where a figure is stale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
LEGEND = {"1 bit": "1 bit", "float": "float32 or bfloat16", "int8": "int8"}
BINARY, FLOAT, INT8, INK, FRAME = "#4051b5", "#b26a00", "#2e7d32", "#333333", "#9e9e9e"

COLOURS = {"1 bit": BINARY, "float": FLOAT, "int8": INT8}
ENOUGH = 5
"""Networks that must have had a budget of training for a figure of it."""
PLACES = ((9, 4, "start"), (0, -9, "middle"), (0, 19, "middle"), (-9, 4, "end"), (-6, -12, "start"), (9, 18, "start"))
"""Where a label may stand next to its point, the last one whatever is there."""


class Drawing:
    """SVG elements on a white card, readable on light and dark pages."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, lines: list[str], fill: str, ink: str = INK) -> None:
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{FRAME}" stroke-width="1"/>'
        )
        for index, line in enumerate(lines):
            at = y + h / 2 + 4.5 + 15 * (index - (len(lines) - 1) / 2)
            self.text(x + w / 2, at, line, bold=index == 0, ink=ink)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", bold: bool = False, ink: str = INK) -> None:
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{ink}"{weight}>{escape(text)}</text>')

    def arrow(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#a)"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, ink: str = "#e0e0e0") -> None:
        self.parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{ink}" stroke-width="1"/>')

    def svg(self) -> str:
        body = "\n".join(self.parts)
        return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" \
width="{self.width}" role="img" font-family="system-ui, sans-serif" font-size="12">
<title>{escape(self.title)}</title>
<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>
<rect width="{self.width}" height="{self.height}" rx="8" fill="#ffffff"/>
{body}
</svg>
"""


def program() -> str:
    """Draw the stages of the program, which meet at files."""
    d = Drawing(
        880, 250, "Images are trained into a checkpoint, packed into a .bhv file, and run in Python, C and JavaScript"
    )
    stage, file = "#e8eaf6", "#fff8e1"
    d.box(16, 60, 92, 60, ["images", "folders, shards", "parquet"], file)
    d.box(138, 60, 104, 60, ["train", "PyTorch", "native kernels"], stage)
    d.box(272, 60, 112, 60, ["checkpoint", ".safetensors"], file)
    d.box(414, 60, 92, 60, ["pack", "fold, to bits"], stage)
    d.box(536, 60, 92, 60, ["model.bhv", "one file"], file)
    d.box(692, 12, 172, 44, ["Python: bhvit.Session", "NumPy only"], stage)
    d.box(692, 68, 172, 44, ["C: bhvit.h", "no dependencies"], stage)
    d.box(692, 124, 172, 44, ["JavaScript", "WebAssembly"], stage)
    for left, right in ((108, 138), (242, 272), (384, 414), (506, 536)):
        d.arrow((left, 90), (right, 90))
    d.arrow((628, 90), (660, 90), (660, 34), (692, 34))
    d.arrow((628, 90), (692, 90))
    d.arrow((628, 90), (660, 90), (660, 146), (692, 146))
    d.box(
        272,
        176,
        356,
        56,
        ["verify", "PyTorch = NumPy reference = native engine, op by op", "every difference is a counted sign"],
        stage,
    )
    d.arrow((328, 120), (328, 176))
    d.arrow((582, 120), (582, 176))
    d.text(16, 24, "Stages meet at files", "start", bold=True)
    d.text(16, 42, "training needs PyTorch, running does not", "start")
    return d.svg()


def model() -> str:
    """Draw the network and one block."""
    d = Drawing(
        880,
        400,
        "BHViT: a stem, four stages with downsampling between them, and a head; a block mixes tokens and channels",
    )
    binary, full = "#e8eaf6", "#fff3e0"
    d.text(16, 26, "Network (bhvit_small, 224×224)", "start", bold=True)
    boxes = [
        (["image", "224×224", "RGB"], 70, "#ffffff"),
        (["stem", "4×4 conv"], 70, full),
        (["stage 1", "3 × conv", "56×56×64"], 92, binary),
        (["↓ 2"], 34, binary),
        (["stage 2", "4 × conv", "28×28×128"], 92, binary),
        (["↓ 2"], 34, binary),
        (["stage 3", "8 × attention", "14×14×256"], 98, binary),
        (["↓ 2"], 34, binary),
        (["stage 4", "4 × attention", "7×7×512"], 98, binary),
        (["head", "mean, linear"], 84, full),
    ]
    x = 16.0
    for index, (lines, width, fill) in enumerate(boxes):
        d.box(x, 44, width, 64, lines, fill)
        if index + 1 < len(boxes):
            d.arrow((x + width, 76), (x + width + 16, 76))
        x += width + 16
    d.text(16, 150, "Block", "start", bold=True)
    d.box(16, 200, 56, 44, ["x"], "#ffffff")
    d.box(104, 200, 60, 44, ["norm"], full)
    d.box(196, 186, 178, 72, ["token mixer", "grouped, dilated convolutions", "or window attention"], binary)
    d.box(416, 207, 30, 30, ["+"], "#ffffff")
    d.box(478, 200, 60, 44, ["norm"], full)
    d.box(580, 160, 178, 56, ["MLP", "two binary linear layers"], binary)
    d.box(580, 232, 178, 56, ["shift branches", "one 9-tap cross"], full)
    d.box(798, 207, 30, 30, ["+"], "#ffffff")
    d.arrow((72, 222), (104, 222))
    d.arrow((164, 222), (196, 222))
    d.arrow((374, 222), (416, 222))
    d.arrow((446, 222), (478, 222))
    d.arrow((538, 222), (560, 222), (560, 188), (580, 188))
    d.arrow((538, 222), (560, 222), (560, 260), (580, 260))
    d.arrow((758, 188), (813, 188), (813, 207))
    d.arrow((758, 260), (813, 260), (813, 237))
    d.arrow((88, 222), (88, 304), (431, 304), (431, 237))
    d.arrow((462, 222), (462, 144), (844, 144), (844, 216), (828, 216))
    d.arrow((828, 228), (868, 228))
    d.box(16, 336, 22, 22, [""], binary)
    d.text(46, 351, "signs: weights and activations of one bit, XOR and popcount", "start")
    d.box(440, 336, 22, 22, [""], full)
    d.text(470, 351, "float32, folded into one multiply-add a channel where possible", "start")
    return d.svg()


@dataclasses.dataclass(frozen=True)
class Plot:
    """An area of a drawing with a logarithmic axis from left to right and a linear one upwards."""

    left: float
    right: float
    top: float
    bottom: float
    low: float
    high: float
    """Ends of the logarithmic axis."""
    least: float
    most: float
    """Ends of the other one, percent."""

    def px(self, value: float) -> float:
        low, high = math.log10(self.low), math.log10(self.high)
        return round(self.left + (math.log10(value) - low) / (high - low) * (self.right - self.left), 1)

    def py(self, percent: float) -> float:
        span = self.most - self.least
        return round(self.bottom - (percent - self.least) / span * (self.bottom - self.top), 1)

    def grid(self, d: Drawing, ticks: Sequence[float], unit: str, percents: Sequence[int]) -> None:
        for tick in ticks:
            d.line(self.px(tick), self.top, self.px(tick), self.bottom)
            d.text(self.px(tick), self.bottom + 18, f"{tick:g} {unit}")
        for percent in percents:
            d.line(self.left, self.py(percent), self.right, self.py(percent))
            d.text(self.left - 8, self.py(percent) + 4, f"{percent} %", "end")

    def points(self, d: Drawing, points: Sequence[tuple[str, str, float, float]]) -> None:
        """Draw points, (label, kind, value, percent), each with its label where there is room."""
        taken = [(self.px(value) - 6, self.px(value) + 6, self.py(percent) + 4) for _, _, value, percent in points]
        for label, kind, value, percent in sorted(points, key=lambda point: point[2]):
            x, y, width = self.px(value), self.py(percent), 7.2 * len(label)
            d.parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{COLOURS[kind]}"/>')
            at = next(
                (dx, dy, anchor)
                for dx, dy, anchor in PLACES
                if (dx, dy) == PLACES[-1][:2] or not _meets(_span(x + dx, y + dy, width, anchor), taken)
            )
            taken.append(_span(x + at[0], y + at[1], width, at[2]))
            d.text(x + at[0], y + at[1], label, at[2], ink=COLOURS[kind])


def legend(d: Drawing, x: float, y: float) -> None:
    """Explain the colours."""
    for index, (kind, colour) in enumerate(COLOURS.items()):
        d.parts.append(f'<circle cx="{x + 150 * index}" cy="{y}" r="5" fill="{colour}"/>')
        d.text(x + 12 + 150 * index, y + 4, LEGEND[kind], "start")


def kind_of(precision: str) -> str:
    """The colour of a precision in a table."""
    return "1 bit" if precision.startswith("1 bit") else "int8" if precision == "int8" else "float"


def table(page: str) -> list[dict[str, str]]:
    """Return the rows of a benchmark page's table by their columns."""
    lines = (ROOT / "benchmarks" / page).read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def accuracy_latency() -> str:
    """Plot published accuracy against measured milliseconds, the fastest row of each model and kind."""
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for row in table("latency/peers.md"):
        if row["Threads"] == "1":
            key = row["Model"], kind_of(row["Precision"])
            found = float(row["Median ms"]), float(row["ImageNet top-1"])
            best[key] = min(best.get(key, found), found)
    d = Drawing(880, 440, "Published ImageNet accuracy against measured latency, batch 1, one thread")
    d.text(16, 26, "ImageNet top-1 as published, against milliseconds an image", "start", bold=True)
    d.text(
        16,
        44,
        "Intel Xeon with AMX, one thread, batch 1; the faster of ONNX Runtime and OpenVINO for float and int8",
        "start",
    )
    plot = Plot(64, 850, 56, 384, 1.4, 95, 62, 82)
    plot.grid(d, (2, 5, 10, 20, 50), "ms", range(62, 83, 4))
    labels = {name: name.replace("_patch16_224", "").replace("_100", "") for name, _ in best}
    plot.points(d, [(labels[name], kind, ms, top1) for (name, kind), (ms, top1) in best.items()])
    legend(d, plot.left + 20, plot.bottom + 40)
    return d.svg()


def front() -> str:
    """Plot CIFAR-10 accuracy against milliseconds and against file size.

    The budget is the largest that enough networks had.
    """
    rows = [row for row in table("accuracy/front.md") if row["Epochs"]]
    networks: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        networks.setdefault((row["Epochs"], row["Training images"]), set()).add(row["Network"])
    enough = [budget for budget, names in networks.items() if len(names) >= ENOUGH] or list(networks)
    budget = max(enough, key=lambda budget: int(budget[0]) * int(budget[1].replace(",", "")))
    shown = [row for row in rows if (row["Epochs"], row["Training images"]) == budget and row["File, MB"]]
    d = Drawing(880, 900, "CIFAR-10 accuracy against measured milliseconds and against file size")
    d.text(16, 26, "CIFAR-10 top-1 against milliseconds an image and against file size", "start", bold=True)
    epochs = f"{budget[0]} epoch{'s' if budget[0] != '1' else ''} of {budget[1]} training images"
    d.text(16, 44, f"{epochs} for every network: far from what each reaches in the end", "start")
    d.text(16, 60, "One thread, batch 1; the faster of the engines that run a network", "start")
    tops = [float(row["Top-1"].removesuffix(" %")) for row in shown]
    least, most = 5 * math.floor(min(tops) / 5), 5 * math.ceil(max(tops) / 5)
    for top, unit, values in (
        (80, "ms", [min(_numbers(row, "ms, bhvit", "ms, ONNX Runtime", "ms, OpenVINO")) for row in shown]),
        (490, "MB", [_numbers(row, "File, MB")[0] for row in shown]),
    ):
        plot = Plot(64, 850, top, top + 340, 0.8 * min(values), 1.5 * max(values), least, most)
        ticks = [n * 10**e for e in range(-3, 4) for n in (1, 2, 5) if plot.low < n * 10**e < plot.high]
        plot.grid(d, ticks, unit, range(least, most + 1, 5))
        points = zip(shown, values, tops, strict=True)
        plot.points(d, [(_short(row["Network"]), kind_of(row["Precision"]), value, t) for row, value, t in points])
    legend(d, 84, 880)
    return d.svg()


def _numbers(row: dict[str, str], *columns: str) -> list[float]:
    return [float(row[column]) for column in columns if row[column]]


def _short(name: str) -> str:
    """The name of a network without what stands in brackets and what the page explains."""
    for words in (", overlapping", " of the same size", ", two strides fewer", ", stem for small images"):
        name = name.replace(words, "")
    return name.partition(" (")[0].replace(", all in full precision", ", float")


def _span(x: float, y: float, width: float, anchor: str) -> tuple[float, float, float]:
    start = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return start, start + width, y


def _meets(span: tuple[float, float, float], taken: list[tuple[float, float, float]]) -> bool:
    return any(span[0] < right and left < span[1] and abs(span[2] - y) < 13 for left, right, y in taken)


def figures() -> dict[str, str]:
    """Return every figure by its file name."""
    drawn = {"program.svg": program(), "model.svg": model(), "accuracy-latency.svg": accuracy_latency()}
    if any(row["File, MB"] for row in table("accuracy/front.md")):  # where times and sizes are measured
        drawn["front.svg"] = front()
    return drawn


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    for name, text in figures().items():
        (FIGURES / name).write_text(text, encoding="utf-8")
