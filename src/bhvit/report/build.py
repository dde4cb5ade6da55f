"""The report of a run: findings become one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..cost.counts import op_costs, total
from ..errors import counted
from ..files import write_atomically
from ..system import environment
from ..text import count_text, describe, size_text
from ..train.run_folder import RunFolder, merit
from ..verification.summary import findings, mask_findings
from . import classes, masks
from .measure import Findings, MaskFindings, RunFindings
from .page import Page
from .weights import weight_findings


def write_report(found: Findings | MaskFindings, out: Path, browser: str = "") -> None:
    """Write the page of `found`, completely or not at all.

    `browser` is an HTML page that runs the model, to be embedded. Raises UserError if `out` cannot be written.
    """
    log = RunFolder(found.folder).entries()
    if isinstance(found, MaskFindings):
        results, tiles, curves, score = masks.mask_sections(found), masks.mask_tiles(found), masks.CURVES, "val_miou"
        fidelity = mask_findings(found.comparison)
    else:
        results, tiles, curves = classes.class_sections(found), classes.class_tiles(found), classes.CURVES
        fidelity, score = findings(found.comparison), "val_top1"
    costs = total(op_costs(found.file.spec))
    page = Page(
        title=f"{found.file.spec.name} on {Path(found.data).name}",
        subtitle=_subtitle(found),
        tiles=[*tiles, *_tiles(found)],
        log=log,
        chosen=_chosen(log, found.checkpoint, score),
        curves=curves,
        results=results,
        weights=weight_findings(found.checkpoint, found.dataset),
        sizes=found.sizes,
        timings=found.timings,
        fidelity=fidelity,
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
        browser=browser,
    )
    write_atomically(out, page.html().encode())


def _subtitle(found: RunFindings) -> str:
    split = found.dataset.split
    part = {"all": "image", "train": "training image"}.get(split, f"{split} image")
    chosen = ", on which the best epoch was chosen" if (split, found.checkpoint.stem) == ("validation", "best") else ""
    images = f"{counted(len(found.dataset), part)}{chosen}, {counted(len(found.file.class_names), 'class')}"
    return f"A binary vision transformer, packed into bits and run on {images}."


def _tiles(found: RunFindings) -> list[tuple[str, str, str]]:
    packed, checkpoint = found.sizes
    tiles = [(size_text(packed[1]), "packed file", f"checkpoint: {size_text(checkpoint[1])}")]
    native, by_torch = found.median("bhvit", 1), found.median("PyTorch", 1)
    if native and by_torch:
        tiles.append((f"{native:.2f} ms", "an image, one thread", f"PyTorch: {by_torch:.2f} ms"))
    return tiles


def _chosen(log: list[dict[str, Any]], checkpoint: Path, score: str) -> int | None:
    """Return the epoch of `checkpoint`: the best in the last phase, or the last."""
    if not log:
        return None
    if checkpoint.stem != "best":
        return int(log[-1]["epoch"]) if checkpoint.stem == "last" else None
    phase = [entry for entry in log if entry.get("phase") == log[-1].get("phase")]
    measured = [
        entry for entry in phase if all(isinstance(entry.get(name), int | float) for name in (score, "val_loss"))
    ]
    return int(max(measured, key=merit)["epoch"]) if measured else None
