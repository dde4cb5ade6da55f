"""`bhvit report`: measure a run and its packed file, and write one HTML page about them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..text import count_text, size_text
from .console import Progress, Subparsers, describe, packed_file, positive, verb

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.metrics import Metrics
    from ..format.file import PackedModel
    from ..report.page import Sample
    from ..timing import Timing
    from ..verification.compare import Comparison

SHOWN = 12
"""Samples of each kind on the page."""

_DESCRIPTION = """\
Write one self-contained HTML page about a run: training curves, confusion matrix, samples, sizes, speeds,
and how well the packed file agrees with PyTorch. Everything but the curves is measured when the page is
made, on the test images (where the data has none, the validation images, by which `best` was chosen)."""


def add_parser(subparsers: Subparsers) -> None:
    parser = verb(
        subparsers,
        "report",
        "write an HTML page about a run",
        _DESCRIPTION,
        "bhvit report runs/photos\nbhvit report runs/photos --model photos.bhv --out photos.html",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder that `bhvit train` wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page to write (default RUN/report.html)")
    parser.add_argument("--force", action="store_true", help="replace an existing page")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which one (default best)")
    parser.add_argument("--model", type=packed_file, metavar="FILE.bhv",
                        help="packed file (default RUN/model.bhv, or one packed for the occasion)")  # fmt: skip
    parser.add_argument("--data", help="images (default: those the run was trained on)")
    parser.add_argument("--split", default="test", help="train, validation, test (default) or all")
    parser.add_argument("--limit", type=positive, metavar="N", help="measure N images, evenly chosen (default all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..files import refuse_existing

    folder = args.folder
    out = args.out or folder / "report.html"
    settings = run_settings(folder)
    refuse_existing(out, args.force)
    checkpoint = folder / f"{args.checkpoint}.safetensors"
    with ExitStack() as stack:
        packed = args.model or folder / "model.bhv"
        if not args.model and not packed.exists():
            from ..models import load_checkpoint
            from ..packing import pack

            packed = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.bhv"
            pack(load_checkpoint(checkpoint), packed)
        found = measure_run(folder, checkpoint, packed, settings, data=args.data, split=args.split, limit=args.limit)
        write_report(found, out)
    print(f"{out}: {size_text(out.stat().st_size)}")
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What a page reports of a run."""

    folder: Path
    checkpoint: Path
    file: PackedModel
    dataset: Dataset
    comparison: Comparison
    timings: tuple[Timing, ...]
    sizes: tuple[tuple[str, int], ...]
    """The packed file first, then the checkpoint, in bytes."""
    settings: dict[str, Any]
    data: str
    split: str

    @property
    def native(self) -> Metrics:
        return self.comparison.native

    def median(self, name: str, threads: int) -> float | None:
        """Median milliseconds an image at batch 1 of "bhvit" or "PyTorch"."""
        times = [t.median for t in self.timings if (t.name, t.threads, t.batch) == (name, threads, 1)]
        return times[0] if times else None


def run_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run folder. Raises UserError if it is not one."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run: it holds no config.json; `bhvit train --out {folder}` makes one")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not isinstance(settings.get("data"), str):
            raise ValueError("it names no data")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return settings


def measure_run(
    folder: Path,
    checkpoint: Path,
    packed: Path,
    settings: dict[str, Any],
    *,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    seconds: float = 1.0,
) -> Findings:
    """Compare and time a run's checkpoint and packed file on its test images.

    Raises UserError if files or images are missing, damaged, or do not belong together.
    """
    import numpy as np

    from ..data.dataset import open_dataset
    from ..format import file as bhv_file
    from ..timing import cores, measure
    from ..verification.compare import compare
    from .bench import native_runs, torch_runs

    file = bhv_file.read(packed)
    own = {"classes_file": settings.get("classes"), "test_fraction": settings.get("test_fraction", 0.2)}
    dataset = open_dataset(data or settings["data"], split, class_names=file.class_names, **({} if data else own))
    if limit and limit < len(dataset):
        dataset = dataset.subset(np.linspace(0, len(dataset) - 1, limit).round().astype(int))
    comparison = compare(checkpoint, packed, dataset, progress=Progress)
    threads = sorted({1, cores()})
    timings = measure(
        native_runs(packed, file, isas=["auto"], threads=threads, batches=[1])
        + torch_runs(checkpoint, packed, threads=threads, batches=[1]),
        seconds,
        Progress("measuring speed"),
    )
    return Findings(
        folder=folder, checkpoint=checkpoint, file=file, dataset=dataset, comparison=comparison,
        timings=tuple(timings), settings=settings, data=data or settings["data"], split=split,
        sizes=(("packed file (.bhv)", packed.stat().st_size), ("PyTorch checkpoint", checkpoint.stat().st_size)),
    )  # fmt: skip


def write_report(found: Findings, out: Path) -> None:
    """Write the page of `found`, whole or not at all. Raises UserError if `out` cannot be written."""
    from ..cost.counts import op_costs, total
    from ..files import write_atomically
    from ..report.page import Page
    from ..report.weights import weight_findings
    from ..timing import environment
    from .verify import findings

    costs = total(op_costs(found.file.spec))
    right, wrong = _samples(found)
    page = Page(
        title=f"{found.file.spec.name} on {Path(found.data).name}",
        subtitle=_subtitle(found),
        tiles=_tiles(found),
        log=_log(found.folder),
        weights=weight_findings(found.checkpoint, found.dataset),
        confusion=found.native.confusion,
        class_names=found.file.class_names,
        right=right,
        wrong=wrong,
        sizes=found.sizes,
        timings=found.timings,
        fidelity=findings(found.comparison),
        model=[
            ("architecture", describe(found.file.spec)),
            (
                "parameters",
                f"{count_text(costs.parameters)}, of which {count_text(costs.binary_parameters)} are one bit",
            ),
            ("binary multiply-accumulates", count_text(costs.binary_macs)),
            ("full-precision multiply-accumulates", count_text(costs.float_macs)),
            ("OPs (binary / 64 + full precision)", count_text(costs.ops)),
            ("checkpoint", f"{found.checkpoint.name} of {found.folder}"),
        ],
        settings=found.settings,
        environment=environment(),
    )
    write_atomically(out, page.html().encode())


def _subtitle(found: Findings) -> str:
    images = f"{len(found.dataset)} images of the {found.split} split, {len(found.file.class_names)} classes"
    return f"A binary vision transformer, packed into bits and run on {images}."


def _tiles(found: Findings) -> list[tuple[str, str, str]]:
    comparison, (packed, checkpoint) = found.comparison, found.sizes
    tiles = [
        (f"{found.native.top1:.2%}", "accuracy of the packed file", f"PyTorch: {comparison.torch.top1:.2%}"),
        (f"{comparison.agreement:.2%}", "same answer as PyTorch", f"of {len(found.dataset)} images"),
        (size_text(packed[1]), "packed file", f"checkpoint: {size_text(checkpoint[1])}"),
    ]
    native, by_torch = found.median("bhvit", 1), found.median("PyTorch", 1)
    if native and by_torch:
        tiles.append((f"{native:.2f} ms", "an image, one thread", f"PyTorch: {by_torch:.2f} ms"))
    return tiles


def _log(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl, up to the first that is damaged."""
    entries: list[dict[str, Any]] = []
    path = folder / "log.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict) or not isinstance(entry.get("epoch"), int):
                break
            entries.append(entry)
    return entries


def _samples(found: Findings) -> tuple[list[Sample], list[Sample]]:
    """Right answers, of each class in turn, and wrong ones, the most confident first."""
    import numpy as np

    from ..report.page import Sample

    logits = found.native.logits.astype(np.float64)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    answers, labels = found.native.predictions, found.native.labels
    confidence = probabilities.max(axis=1)

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
