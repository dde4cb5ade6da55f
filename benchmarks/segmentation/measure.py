"""Segmentation of street scenes: every run in a folder packed, measured on the test images, and drawn.

    python -m benchmarks.segmentation.measure --data camvid-320x240.zip --runs runs/segment

`--runs` holds folders of `bhvit train --task segment`; each becomes a row. The figure shows a few test images with the
masks and with the labels of the packed files.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from bhvit import Session, load_checkpoint, pack
from bhvit.data.masks import IGNORED, MaskedDataset, open_masked
from bhvit.data.segmentation_metrics import SegmentationMetrics, confusion, evaluate_masks
from bhvit.runtime.overlays import overlay
from bhvit.train.run_folder import RunFolder

from ..common import add_page, markdown, write_results

PAGE = Path(__file__).with_name("results.md")
FIGURE = Path(__file__).with_name("examples.jpg")
TURNS = 20
COMPARED = 12
"""Test images that PyTorch labels too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    add_page(parser, PAGE)
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.runs.glob("*/last.safetensors"))
    rows, classes, sessions = [], {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for folder in folders:
            row, metrics, session = measure(folder, args.data, Path(temporary))
            rows.append(row)
            classes[folder.name] = metrics
            sessions[folder.name] = session
        times = in_turns(sessions)
        for row, folder in zip(rows, folders, strict=True):
            row += [f"{np.median(values):.2f}" for values in times[folder.name]]
        figure(sessions, args.data, args.figure)
    header = "Run|Input|Epochs|Images|mIoU|Pixels right|IoU of road|File, MB|Agreement|ms, 1 thread|ms, 2 threads"
    names = next(iter(classes.values())).class_names
    per_class = [
        [name, *(f"{value:.1%}" for value in metrics.per_class)]
        for name, metrics in classes.items()
        if metrics.class_names == names
    ]
    isa = next(iter(sessions.values())).isa
    notes = f"""\
mIoU and pixels are of the test images, at their own size, by the packed file of the run's last epoch. Agreement: of all
pixels of {COMPARED} of them, those that PyTorch gives the same class. Milliseconds: the median of {TURNS} images run in
turns, without decoding; instruction set {isa}. Other work ran on this machine at the same time."""
    example = f"![Test images, masks, labels]({args.figure.name})"
    parts = [markdown(header.split("|"), rows), notes, markdown(["IoU", *names], per_class), example, settings(folders)]
    text = "\n\n".join(parts)
    write_results(args.page, "Segmentation of street scenes (CamVid, 11 classes)", text)


def measure(folder: Path, data: str, temporary: Path) -> tuple[list[str], SegmentationMetrics, Session]:
    """The row of a run without its times, its metrics, and a session of its packed file."""
    run, checkpoint = RunFolder(folder), folder / "last.safetensors"
    model, packed = load_checkpoint(checkpoint), temporary / f"{folder.name}.bhv"
    pack(model, packed)
    session = Session(packed)
    test = open_masked(data, "test", class_names=session.class_names, warn=lambda line: None)
    metrics = evaluate_masks(session.segment, test)
    config = run.settings()
    trained = json.loads(run.data.read_text())["train"]["images"]
    road = next(i for i, name in enumerate(session.class_names) if "road" in name)
    row = [
        folder.name,
        "×".join(map(str, session.spec.img_size)),
        str(len(run.entries())) + (f" after {Path(config['init']).parent.name}" if config.get("init") else ""),
        str(trained),
        f"{metrics.miou:.2%}",
        f"{metrics.pixel_accuracy:.2%}",
        f"{metrics.per_class[road]:.2%}",
        f"{packed.stat().st_size / 1e6:.2f}",
        f"{agreement(model, session, test):.3%}",
    ]
    return row, metrics, session


def agreement(model: object, session: Session, test: MaskedDataset) -> float:
    """The share of pixels that PyTorch and the packed file give the same class."""
    import torch

    same = total = 0
    for index in np.linspace(0, len(test) - 1, COMPARED).round().astype(int):
        image = session.preprocess(test.image(int(index)))
        with torch.inference_mode():
            ours = model(torch.from_numpy(image))[0].argmax(dim=0).to(torch.uint8).numpy()  # type: ignore[operator]
        found = confusion(ours, session.program.segment(image)[0], len(session.class_names))
        same, total = same + int(found.trace()), total + int(found.sum())
    return same / total


def in_turns(sessions: dict[str, Session]) -> dict[str, list[list[float]]]:
    """Milliseconds an image of each session on one and on two threads."""
    from time import perf_counter

    timed = {name: [session, Session(session._saved[0], threads=2)] for name, session in sessions.items()}
    images = {name: session.preprocess(noise(session)) for name, session in sessions.items()}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in sessions}
    for _ in range(TURNS):
        for name, pair in timed.items():
            for place, session in enumerate(pair):
                begin = perf_counter()
                session.program.segment(images[name])
                times[name][place].append(1000 * (perf_counter() - begin))
    return times


def noise(session: Session) -> np.ndarray:
    """A picture of the model's size."""
    shape = (*session.spec.img_size, session.spec.in_chans)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def figure(sessions: dict[str, Session], data: str, path: Path, count: int = 4) -> None:
    """Test images, their masks, and the labels of each run, a column an image."""
    chosen = [session for session in sessions.values() if session.spec.num_classes > 2] or list(sessions.values())
    names = [name for name, session in sessions.items() if session in chosen]
    classes = len(chosen[0].class_names)
    test = open_masked(data, "test", class_names=chosen[0].class_names, warn=lambda line: None)
    columns = []
    for index in np.linspace(0, len(test) - 1, count + 2).round().astype(int)[1:-1]:
        image, mask = test.both(int(index))
        masked = np.where(mask == IGNORED, classes, mask).astype(np.uint8)
        parts = [image.convert("RGB"), overlay(image, masked, classes)]
        parts += [overlay(image, session.segment(image), classes) for session in chosen]
        columns.append(np.concatenate([np.asarray(part) for part in parts]))
    drawn = Image.fromarray(np.concatenate(columns, axis=1))
    draw, height = ImageDraw.Draw(drawn), image.height
    for row, name in enumerate(["image", "mask", *names]):
        draw.rectangle((0, row * height, 8 * len(name) + 8, row * height + 16), fill=(0, 0, 0))
        draw.text((4, row * height + 2), name, fill=(255, 255, 255))
    drawn.save(path, quality=85)


def settings(folders: list[Path]) -> str:
    """The settings of each run, as its folder has them."""
    lines = []
    for folder in folders:
        values = json.loads((folder / "config.json").read_text())
        kept = {name: value for name, value in values.items() if name not in ("data", "out", "threads", "init")}
        lines.append(f"* `{folder.name}`: `{json.dumps(kept)}`")
    return "Settings:\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
