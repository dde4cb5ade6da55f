"""Segmentation of street scenes: what has been trained is packed, measured on the test images, and drawn.

    python -m benchmarks.segmentation.measure --data camvid-320x240.zip --runs runs/segment

`--runs` holds what `benchmarks.segmentation.train` has trained so far; rows without a finished epoch are listed as not
run. The figure shows a few test images with their masks and with the labels of each row.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from bhvit import Session, load_checkpoint, pack
from bhvit.data.mask_classes import IGNORED
from bhvit.data.masks import MaskedDataset, open_masked
from bhvit.data.segmentation_metrics import Labeller, SegmentationMetrics, evaluate_masks
from bhvit.image import Preprocess
from bhvit.runtime.overlays import overlay
from bhvit.spec.overrides import OVERRIDES
from bhvit.train.config import TrainConfig
from bhvit.train.run_folder import RunFolder

from ..common import add_page, markdown, write_results
from . import lraspp
from .rows import MAIN, ROWS, Trained, trained

PAGE = Path(__file__).with_name("results.md")
FIGURE = Path(__file__).with_name("examples.jpg")
TURNS = 20
COMPARED = 12
"""Test images that PyTorch labels too."""
Prepared = Callable[[Any], Any]
"""A normalised image -> labels, to be timed."""


class Contender(NamedTuple):
    """A file that labels images."""

    row: str
    kind: str
    """What runs it."""
    seed: int
    run: Trained
    file: Path
    label: Labeller
    preprocess: Preprocess
    timed: tuple[Prepared, Prepared]
    """On one and two threads."""
    agreement: tuple[float, float] | None
    """Share of pixels with the class of PyTorch in float32, and of those that PyTorch gives the same in float64."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/segment"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, default=FIGURE)
    add_page(parser, PAGE)
    args = parser.parse_args()
    runs = [found for row in ROWS for seed in args.seeds if (found := trained(args.runs, row, seed))]
    if not runs:
        parser.error(f"nothing is trained in {args.runs}: python -m benchmarks.segmentation.train")
    torch.set_num_threads(1)
    names = tuple(RunFolder(runs[0].folder).settings().get("foreground") or ()) or None
    test = open_masked(args.data, "test", foreground=names or (), warn=lambda line: None)
    with tempfile.TemporaryDirectory() as temporary:
        contenders = [one for run in runs for one in _opened(run, test, Path(temporary))]
        metrics = [evaluate_masks(one.label, test) for one in contenders]
        times = _in_turns(contenders)
        figure(contenders, test, args.figure)
        text = page(contenders, metrics, times, args, test.class_names)
    write_results(args.page, "Segmentation of street scenes (CamVid, 11 classes)", text)


def page(
    contenders: Sequence[Contender],
    metrics: Sequence[SegmentationMetrics],
    times: Sequence[tuple[float, float]],
    args: argparse.Namespace,
    class_names: Sequence[str],
) -> str:
    """The page's tables and notes."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, one in enumerate(contenders):
        groups.setdefault((one.row, one.kind), []).append(index)
    road = next((index for index, name in enumerate(class_names) if "road" in name), 0)
    rows, per_class = [], []
    for (row, kind), members in groups.items():
        first, several = contenders[members[0]], [metrics[index] for index in members]
        agreements = [contenders[index].agreement for index in members]
        rows.append(
            [
                ROWS[row].what,
                kind,
                str(len(members)),
                _epochs(first.run),
                "×".join(map(str, first.preprocess.size)),
                _spread([found.miou for found in several]),
                _spread([float(found.per_class[road]) for found in several]),
                _spread([found.pixel_accuracy for found in several]),
                f"{first.file.stat().st_size / 1e6:.2f}",
                *(
                    "–" if agreements[0] is None else f"{min(both[place] for both in agreements if both):.2%}"
                    for place in (0, 1)
                ),
                *(f"{np.median([times[index][place] for index in members]):.2f}" for place in (0, 1)),
            ]
        )
        mean = np.mean([found.per_class for found in several], axis=0)
        per_class.append([f"{ROWS[row].what}, {kind}", *(f"{value:.1%}" for value in mean)])
    header = (
        "Network|Run by|Seeds|Epochs|Input|mIoU|IoU of road|Pixels right|File, MB|Agreement|PyTorch with itself|"
        "ms, 1 thread|ms, 2 threads"
    )
    present = {one.row for one in contenders}
    missing = [f"{ROWS[row].what} (`{row}`)" for row in ROWS if row not in present]
    short = [
        ROWS[row].what for row in MAIN if row in present and len(groups[next(k for k in groups if k[0] == row)]) < 3
    ]
    notes = [
        f"""mIoU and pixels are of all {metrics[0].images} test images, at their own size, by what "Run by" names. \
Agreement: of all pixels of {COMPARED} of them, at the model's size, those that PyTorch gives the same class, least of \
the seeds; "PyTorch with itself" is the same of its float32 and its float64, which no file can be expected to exceed: \
values at rounding distance from a sign's threshold fall either way. Milliseconds: the median of {TURNS} images run in \
turns, without decoding and resizing. Epochs: of each stage, done of planned. Other work ran on this machine at the \
same time: compare times with each other only.""",
        "Not run: " + ("; ".join(missing) if missing else "none") + ".",
    ]
    if short:
        notes.append(f"Fewer than three seeds: {'; '.join(short)}.")
    first_files = {one.run.folder: one for one in contenders}.values()
    settings = "\n".join(f"* `{one.run.folder.name}`: `{_settings(one.run)}`" for one in first_files)
    parts = [
        markdown(header.split("|"), rows),
        *notes,
        markdown(["Intersection over union", *class_names], per_class),
        f"![Test images, masks, labels]({args.figure.name})\n\nThe images are CamVid's (CC BY-NC 4.0).",
        f"Settings of the last stages:\n\n{settings}",
    ]
    return "\n\n".join(parts)


def _opened(run: Trained, test: MaskedDataset, folder: Path) -> list[Contender]:
    """The files of a run, ready to label."""
    row, seed = run.stage.row, run.stage.seed
    if ROWS[row].network == "lraspp":
        config = TrainConfig.from_dict(RunFolder(run.folder).settings())
        files, preprocess, _ = lraspp.export(run.folder, folder, config)
        found = []
        for kind, file in files.items():
            one, two = (lraspp.Exported(file, preprocess, threads) for threads in (1, 2))
            timed = (one.labels, two.labels)
            found.append(
                Contender(row, f"ONNX Runtime, {kind}", seed, run, file, one.labeller(), preprocess, timed, None)
            )
        return found
    model, file = load_checkpoint(run.folder / "last.safetensors"), folder / f"{run.folder.name}.bhv"
    pack(model, file)
    session, two = Session(file), Session(file, threads=2)
    timed = (session.program.segment, two.program.segment)
    same = agreement(model, session, test)
    return [
        Contender(row, f"bhvit, {session.isa}", seed, run, file, session.segment, session.preprocessing, timed, same)
    ]


def agreement(model: nn.Module, session: Session, test: MaskedDataset) -> tuple[float, float]:
    """The shares of pixels that get the same class from PyTorch's float32 and the packed file, and from its float64."""
    exact = copy.deepcopy(model).double()
    same = exactly = total = 0
    for index in sorted({int(index) for index in np.linspace(0, len(test) - 1, COMPARED).round()}):
        image = session.preprocess(test.image(index))
        with torch.inference_mode():
            ours = model(torch.from_numpy(image))[0].argmax(dim=0).numpy()
            wide = exact(torch.from_numpy(image).double())[0].argmax(dim=0).numpy()
        native = session.program.segment(image)[0]
        same, exactly = same + int((ours == native).sum()), exactly + int((ours == wide).sum())
        total += native.size
    return same / total, exactly / total


def _in_turns(contenders: Sequence[Contender]) -> list[tuple[float, float]]:
    """Milliseconds an image of each on one and on two threads, medians."""
    images = []
    for one in contenders:
        shape = (1, *one.preprocess.size, one.preprocess.channels)
        images.append(one.preprocess.normalize(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)))
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    for turn in range(TURNS + 1):  # the first is a warm-up
        for one, image, kept in zip(contenders, images, times, strict=True):
            for call, own in zip(one.timed, kept, strict=True):
                begin = time.perf_counter()
                call(image)
                if turn:
                    own.append(1000 * (time.perf_counter() - begin))
    return [(float(np.median(first)), float(np.median(second))) for first, second in times]


def figure(contenders: Sequence[Contender], test: MaskedDataset, path: Path, count: int = 4) -> None:
    """Test images, their masks, and the labels of each network's first seed, a column an image."""
    first = {(one.row, one.kind): one for one in reversed(contenders)}
    chosen = [one for one in contenders if first[one.row, one.kind] is one]
    classes = len(test.class_names)
    columns = []
    for index in sorted({int(index) for index in np.linspace(0, len(test) - 1, count + 2).round()[1:-1]}):
        image, mask = test.both(index)
        masked = np.where(mask == IGNORED, classes, mask).astype(np.uint8)
        parts = [image.convert("RGB"), overlay(image, masked, classes)]
        parts += [overlay(image, one.label(image), classes) for one in chosen]
        columns.append(np.concatenate([np.asarray(part) for part in parts]))
    drawn = Image.fromarray(np.concatenate(columns, axis=1))
    draw, height = ImageDraw.Draw(drawn), image.height
    for place, name in enumerate(["image", "mask", *(f"{ROWS[one.row].what}, {one.kind}" for one in chosen)]):
        draw.rectangle((0, place * height, draw.textlength(name) + 8, place * height + 16), fill=(0, 0, 0))
        draw.text((4, place * height + 2), name, fill=(255, 255, 255))
    drawn.save(path, quality=85)


def _epochs(run: Trained) -> str:
    return " + ".join(f"{done} of {planned}" for done, planned in run.done.values())


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.2%}"
    return mean if len(values) == 1 else f"{mean} ± {100 * np.std(values):.2f}"


def _settings(run: Trained) -> str:
    """What a run's settings have that is not the same for all."""
    left_out = {"data", "out", "threads", "init", "task", "device", "phases"}
    if ROWS[run.stage.row].network != "bhvit":  # which has nothing of our models
        left_out |= {*OVERRIDES, "patch"}
    values = RunFolder(run.folder).settings()
    default = {field: value for field, value in _defaults(values).items() if field in values}
    shown = {k: v for k, v in values.items() if k not in left_out and default.get(k, object()) != v}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _defaults(values: dict[str, Any]) -> dict[str, Any]:
    own = {"model": values["model"], "data": values["data"], "out": values["out"]}
    return TrainConfig.from_dict(own).to_dict()


if __name__ == "__main__":
    main()
