"""The report of a run: findings become one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..calibration import probabilities
from ..cost.counts import op_costs, total
from ..files import write_atomically
from ..system import environment
from ..text import count_text, describe, size_text
from ..train.run_folder import RunFolder
from ..verification.summary import findings
from .gallery import Shown, shown_images
from .measure import Findings
from .page import Page, Sample
from .weights import weight_findings

SHOWN = 12
"""Samples of each kind on the page."""


def write_report(found: Findings, out: Path) -> None:
    """Write the page of `found`, whole or not at all. Raises UserError if `out` cannot be written."""
    log = RunFolder(found.folder).entries()
    costs = total(op_costs(found.file.spec))
    right, wrong = _samples(found)
    page = Page(
        title=f"{found.file.spec.name} on {Path(found.data).name}",
        subtitle=_subtitle(found),
        tiles=_tiles(found),
        log=log,
        chosen=_chosen(log, found.checkpoint),
        pictures=_pictures(found),
        robustness=found.robustness,
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
                f"{count_text(costs.parameters)}, {count_text(costs.binary_parameters)} of them one bit",
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
    part = {
        "all": "images",
        "train": "training images",
        "validation": "validation images"
        + (", on which the best epoch was chosen" if found.checkpoint.stem == "best" else ""),
        "test": "test images",
    }[found.dataset.split]
    images = f"{len(found.dataset)} {part}, {len(found.file.class_names)} classes"
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


def _chosen(log: list[dict[str, Any]], checkpoint: Path) -> int | None:
    """The epoch of `checkpoint`: the best on validation images in the last phase, or the last."""
    if not log:
        return None
    if checkpoint.stem != "best":
        return int(log[-1]["epoch"]) if checkpoint.stem == "last" else None
    phase = [entry for entry in log if entry.get("phase") == log[-1].get("phase")]
    measured = [entry for entry in phase if isinstance(entry.get("val_top1"), int | float)]
    return int(max(measured, key=lambda entry: entry["val_top1"])["epoch"]) if measured else None


def _pictures(found: Findings) -> list[Shown]:
    calibration, dataset = found.file.calibration, found.dataset
    temperature = calibration.temperature if calibration else 1.0
    return shown_images(found.native, dataset.image, lambda index: Path(dataset.name(index)).name, temperature)


def _samples(found: Findings) -> tuple[list[Sample], list[Sample]]:
    """Right answers, of each class in turn, and wrong ones, the most confident first."""
    calibration = found.file.calibration
    answers, labels = found.native.predictions, found.native.labels
    confidence = probabilities(found.native.logits, calibration.temperature if calibration else 1.0).max(axis=1)

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
