"""`bhvit demo`: the whole way on handwritten digits: train, pack, verify, classify, measure, report."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..errors import UserError, counted
from ..files import check_folder
from ..text import size_text
from .console import Progress, Subparsers, command, positive, table

if TYPE_CHECKING:
    from ..report.measure import Findings

LEAST_TOP1 = 0.97
LEAST_AGREEMENT = 0.995
SAMPLES = 8
MARKER = "demo.json"
"""Says that a folder is a demo's, which --force may replace; holds its results when it is done."""

_DESCRIPTION = f"""\
Train bhvit_nano on scikit-learn's handwritten digits (no download), pack it, verify it on every held-out
image, classify some of them, measure it against PyTorch and write a report: a few minutes on two cores.
The model packed is that of the last epoch, so nothing was chosen by looking at the held-out images.
The exit status is 1 if accuracy is under {LEAST_TOP1:.0%} or the packed file does not answer as PyTorch does."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "demo",
        "the whole way on handwritten digits, in minutes",
        _DESCRIPTION,
        "bhvit demo --out demo\nbhvit demo --pretrained",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="folder (default demo)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: those of the recipe")
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="train nothing: evaluate and time the bundled model on labelled images",
    )
    parser.add_argument("--data", metavar="SOURCE", help="with --pretrained: its images (default cifar10, a download)")
    parser.add_argument("--force", action="store_true", help="replace an earlier demo in that folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0, or 1 if engine and reference differ. Raises UserError."""
    begin = time.perf_counter()
    if args.pretrained:
        if args.epochs:
            raise UserError("--pretrained trains nothing, so --epochs does not go with it")
        from .demo_pretrained import demo_pretrained

        return demo_pretrained(args.data or bundled.DEFAULT)
    if args.data:
        raise UserError("--data goes with --pretrained; `bhvit train --data` trains on your own images")
    out: Path = args.out
    from ..packing import pack  # a missing extra is found before anything is touched
    from ..train import TrainConfig, load_recipe, train
    from ..train.malloc import keep_memory
    from ..train.run_folder import RunFolder

    _clear(out, args.force)
    keep_memory()
    settings: dict[str, Any] = {**load_recipe("digits"), "data": "digits", "model": "bhvit_nano", "out": str(out)}
    if args.epochs:
        settings["epochs"] = args.epochs
        settings["warmup_epochs"] = min(settings.get("warmup_epochs", 0), args.epochs)
    config = TrainConfig.from_dict(settings)
    _step(1, f"Training {config.model} on {config.data}: {counted(config.epochs, 'epoch')}")
    checkpoint = train(config, force=True).last

    packed = out / "model.bhv"
    _step(2, "Packing")
    from ..models import load_checkpoint

    pack(load_checkpoint(checkpoint), packed)
    before, after = checkpoint.stat().st_size, packed.stat().st_size
    print(f"  {packed}: {size_text(after)}, {before / after:.1f} times smaller than the checkpoint")

    _step(3, "Verifying every held-out image, and measuring")
    from ..report.build import write_report
    from ..report.measure import Findings, measure_run
    from ..timing import BUSY, busy
    from ..verification.summary import findings
    from .bench import comparisons, timing_table

    found = measure_run(out, checkpoint, packed, RunFolder(out).settings(), progress=Progress)
    assert isinstance(found, Findings)
    print(table(findings(found.comparison), right=False))
    print("  milliseconds an image:")
    print(timing_table(list(found.timings)))
    for line in comparisons(list(found.timings)):
        print(f"  {line}")
    if busy(found.timings):
        print(f"  {BUSY}")

    _step(4, "Classifying a few images from PNG files")
    pictures = _classify_some(found, packed, out / "samples")

    _step(5, "Writing the report")
    page = out / "report.html"
    write_report(found, page, _browser_page(packed))
    print(f"  {page}: {size_text(page.stat().st_size)}")

    failures = _failures(found)
    seconds = time.perf_counter() - begin
    (out / MARKER).write_text(json.dumps(_results(found, failures, seconds), indent=2) + "\n", encoding="utf-8")
    print(_farewell(out, checkpoint, packed, page, pictures, seconds))
    for failure in failures:
        print(f"bhvit: the demo failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _browser_page(packed: Path) -> str:
    """A page that runs the model; empty where the engine for browsers has not been built."""
    from ..web import single_file, site_files
    from ..web.site import find_library

    try:
        find_library()
    except UserError:
        return ""
    return single_file(site_files([packed]))


def _clear(out: Path, force: bool) -> None:
    """Make `out` an empty demo folder. Raises UserError rather than touch what no demo wrote."""
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UserError(f"{out} holds other things than a demo: choose another folder with --out")
        if not force:
            raise UserError(f"{out} holds a demo already: --force replaces it, --out puts this one elsewhere")
    from ..train.run_folder import RunFolder

    try:
        out.mkdir(parents=True, exist_ok=True)
        RunFolder(out).clear()
        for name in ("model.bhv", "report.html"):
            (out / name).unlink(missing_ok=True)
        for picture in (out / "samples").glob("digit-*.png"):
            picture.unlink()
        (out / MARKER).write_text('{"status": "unfinished"}\n', encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None


def _classify_some(found: Findings, packed: Path, folder: Path) -> list[Path]:
    """Write a few held-out images of different classes as PNG files and classify those."""
    import numpy as np

    from ..runtime import Session

    folder.mkdir(exist_ok=True)
    session = Session(packed)
    _, first = np.unique(found.dataset.labels, return_index=True)
    pictures, rows = [], []
    for index in first[:SAMPLES]:
        label = found.dataset.class_names[found.dataset.labels[index]]
        path = folder / f"digit-{label}.png"
        found.dataset.image(int(index)).save(path)
        pictures.append(path)
        (name, probability), *_ = session.classify(path, top=1)
        rows.append([str(path), f"{name}  {probability:6.1%}", "" if name == label else f"wrong: it is a {label}"])
    print(table(rows, right=False))
    return pictures


def _failures(found: Findings) -> list[str]:
    comparison = found.comparison
    failures = [
        f"{who} is right on {top1:.2%} of the held-out images, not on {LEAST_TOP1:.0%}"
        for who, top1 in (("the packed file", comparison.native.top1), ("PyTorch", comparison.torch.top1))
        if top1 < LEAST_TOP1
    ]
    if comparison.agreement < LEAST_AGREEMENT:
        failures.append(
            f"PyTorch and the packed file agree on {comparison.agreement:.2%}, not on {LEAST_AGREEMENT:.1%}"
        )
    if comparison.reference_parts_at:
        failures.append(f"native and NumPy reference differ, first after op {comparison.reference_parts_at}")
    return failures


def _results(found: Findings, failures: list[str], seconds: float) -> dict[str, Any]:
    return {
        "status": "failed" if failures else "passed",
        "failures": failures,
        "seconds": round(seconds, 1),
        "native_top1": found.native.top1,
        "torch_top1": found.comparison.torch.top1,
        "agreement": found.comparison.agreement,
        "images": len(found.dataset),
        "bytes": dict(found.sizes),
        "milliseconds_per_image": {f"{t.name}, {t.threads} threads": t.median for t in found.timings},
    }


def _farewell(out: Path, checkpoint: Path, packed: Path, page: Path, pictures: list[Path], seconds: float) -> str:
    command = "bhvit" if shutil.which("bhvit") else sys.argv[0]
    rows = [
        ["report", str(page.resolve())],
        ["packed model", str(packed.resolve())],
        ["checkpoint", str(checkpoint.resolve())],
        ["pictures", str(pictures[0].parent.resolve())],
    ]
    return f"""
Done in {seconds:.0f} s.
{table(rows, right=False)}

Try it:
  {command} classify {packed} {pictures[0]}
  {command} bench {packed} --torch {checkpoint} --threads 1,2

With your own images, in a folder for each class (photos/cat/*.jpg, photos/dog/*.jpg, …):
  {command} train --data photos --model bhvit_nano --img-size 64 --out runs/photos
  {command} pack runs/photos/best.safetensors photos.bhv
  {command} verify runs/photos/best.safetensors photos.bhv --data photos
  {command} classify photos.bhv some-picture.jpg
  {command} report runs/photos --model photos.bhv"""


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)
