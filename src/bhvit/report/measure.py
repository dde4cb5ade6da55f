"""Everything a report shows about a run, measured on its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.corruptions import Robustness, robustness
from ..data.dataset import Dataset, open_dataset
from ..data.metrics import Metrics, Progress
from ..format import file as bhv_file
from ..format.file import PackedModel
from ..runtime import Session
from ..system import allowed_cores
from ..timing import Timing, measure
from ..timing.runs import native_runs, torch_runs
from ..verification.compare import Comparison, compare


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
    robustness: Robustness | None = None

    @property
    def native(self) -> Metrics:
        return self.comparison.native

    def median(self, name: str, threads: int) -> float | None:
        """Median milliseconds an image at batch 1 of "bhvit" or "PyTorch"."""
        times = [t.median for t in self.timings if (t.name, t.threads, t.batch) == (name, threads, 1)]
        return times[0] if times else None


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
) -> Findings:
    """Compare and time a run's checkpoint and packed file on its test images, with `corruptions` on corrupted ones too.

    Raises UserError if files or images are missing, damaged, or do not belong together.
    """
    file = bhv_file.read(packed)
    own = {"classes_file": settings.get("classes"), "test_fraction": settings.get("test_fraction", 0.2)}
    dataset = open_dataset(data or settings["data"], split, class_names=file.class_names, **({} if data else own))
    if limit and limit < len(dataset):
        dataset = dataset.subset(np.linspace(0, len(dataset) - 1, limit).round().astype(int))
    comparison = compare(checkpoint, packed, dataset, max_memory=max_memory, progress=progress)
    corrupted = None
    if corruptions:
        show = progress("measuring corrupted images") if progress else None
        corrupted = robustness(Session(packed, max_memory=max_memory), dataset, file.preprocess, progress=show)
    threads = sorted({1, allowed_cores()})
    timings = measure(
        native_runs(packed, file, isas=["auto"], threads=threads, batches=[1], max_memory=max_memory)
        + torch_runs(checkpoint, packed, threads=threads, batches=[1]),
        seconds,
        progress("measuring speed") if progress else None,
    )
    return Findings(
        folder=folder,
        checkpoint=checkpoint,
        file=file,
        dataset=dataset,
        comparison=comparison,
        timings=tuple(timings),
        settings=settings,
        data=data or settings["data"],
        robustness=corrupted,
        sizes=(("packed file (.bhv)", packed.stat().st_size), ("PyTorch checkpoint", checkpoint.stat().st_size)),
    )
