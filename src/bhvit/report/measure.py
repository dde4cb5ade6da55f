"""Everything a report shows about a run, measured on its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.corruptions import Robustness, robustness
from ..data.dataset import Dataset, evenly, open_dataset
from ..data.masks import MaskedDataset, open_masked
from ..data.metrics import Metrics, Progress
from ..data.segmentation_metrics import SegmentationMetrics, evaluate_masks
from ..errors import UserError
from ..format import file as bhv_file
from ..format.file import PackedModel
from ..runtime import Session
from ..system import allowed_cores
from ..timing import Timing, measure
from ..timing.runs import native_runs, torch_runs
from ..verification.compare import Comparison, compare
from ..verification.segmentation import MaskComparison, compare_masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFindings:
    """What a page reports of any run."""

    folder: Path
    checkpoint: Path
    file: PackedModel
    dataset: Dataset
    timings: tuple[Timing, ...]
    sizes: tuple[tuple[str, int], ...]
    """The packed file first, then the checkpoint, in bytes."""
    settings: dict[str, Any]
    data: str

    def median(self, name: str, threads: int) -> float | None:
        """Median milliseconds an image at batch 1 of "bhvit" or "PyTorch"."""
        times = [t.median for t in self.timings if (t.name, t.threads, t.batch) == (name, threads, 1)]
        return times[0] if times else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings(RunFindings):
    """What a page reports of a classifier."""

    comparison: Comparison
    robustness: Robustness | None = None

    @property
    def native(self) -> Metrics:
        """Metrics of the packed file, run natively."""
        return self.comparison.native


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFindings(RunFindings):
    """What a page reports of a segmentation."""

    dataset: MaskedDataset
    comparison: MaskComparison
    metrics: SegmentationMetrics
    """Of the packed file's labels at each image's own size."""
    session: Session


def measure_run(
    folder: Path,
    checkpoint: Path,
    packed: Path,
    settings: dict[str, Any],
    *,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    corruptions: bool = False,
    seconds: float = 1.0,
    max_memory: int | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> Findings | MaskFindings:
    """Compare and time a run's checkpoint and packed file on its test images.

    With `corruptions` also on corrupted ones.

    Raises UserError if files or images are missing, damaged, or do not belong together, and for corruptions of a
    segmentation's images.
    """
    file = bhv_file.read(packed)
    masked = file.spec.task == "segment"
    if masked and corruptions:
        raise UserError(f"{folder} is a segmentation: accuracy on corrupted images is measured of classifiers")
    opened = _open(file, settings, data, split)
    opened = opened.subset(evenly(len(opened), limit))
    show = progress or (lambda what: None)  # type: ignore[return-value]
    results: dict[str, Any] = {}
    session = Session(packed, max_memory=max_memory)
    if isinstance(opened, MaskedDataset):
        results["session"] = session
        results["comparison"] = compare_masks(
            checkpoint, packed, opened, max_memory=max_memory, progress=show("comparing")
        )
        results["metrics"] = evaluate_masks(session.segment, opened, show("evaluating"))
    else:
        results["comparison"] = compare(checkpoint, packed, opened, max_memory=max_memory, progress=progress)
        if corruptions:
            shown = show("measuring corrupted images")
            results["robustness"] = robustness(session, opened, file.preprocess, progress=shown)
    threads = sorted({1, allowed_cores()})
    timings = measure(
        native_runs(packed, file, isas=["auto"], threads=threads, batches=[1], max_memory=max_memory)
        + torch_runs(checkpoint, packed, threads=threads, batches=[1]),
        seconds,
        show("measuring speed"),
    )
    found: dict[str, Any] = {
        "folder": folder,
        "checkpoint": checkpoint,
        "file": file,
        "dataset": opened,
        "timings": tuple(timings),
        "settings": settings,
        "data": data or settings["data"],
        "sizes": (("packed file (.bhv)", packed.stat().st_size), ("PyTorch checkpoint", checkpoint.stat().st_size)),
        **results,
    }
    return MaskFindings(**found) if masked else Findings(**found)


def _open(file: PackedModel, settings: dict[str, Any], data: str | None, split: str) -> Dataset:
    names, source = file.class_names, data or settings["data"]
    masked = file.spec.task == "segment"
    own: dict[str, Any] = {}
    if not data:
        own["classes_file"] = settings.get("classes")
        own["test_fraction"] = settings.get("test_fraction", None if masked else 0.2)
    if not masked:
        return open_dataset(source, split, class_names=names, **own)
    if not data:
        own["ignore"] = settings.get("ignore")
    return open_masked(source, split, class_names=names, **own)
