"""Time the published sizes and variants, and compare with the machine's limit.

Milliseconds an image at 224x224, 1000 classes.

    python -m benchmarks.latency.latency

Random weights with random, non-degenerate norm statistics. All executions of a model are timed in turns in one run.
The limit is the time that loops on registers alone, measured in the same run, need for as many multiply-accumulates.
Writes `results.md` next to this file.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.common import add_page, markdown, write_results

from bhvit import Session
from bhvit._native import available_isas, float_peak_rate, peak_rate
from bhvit.cost.counts import op_costs, total
from bhvit.models import create_model
from bhvit.packing import pack
from bhvit.timing import Run, measure
from helpers.randomise import randomise

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bhvit_small": ("bhvit_small", {}),
    "bhvit_tiny": ("bhvit_tiny", {}),
    "bhvit_small_fp (†)": ("bhvit_small_fp", {}),
    "bhvit_tiny_fp (†)": ("bhvit_tiny_fp", {}),
    "binaryvit_small": ("binaryvit_small", {}),
    "bhvit_small, GSB": ("bhvit_small", {"attention": "gsb"}),
    "bhvit_small, layer norm": ("bhvit_small", {"norm": "layer"}),
    "bhvit_nano, 32×32": ("bhvit_nano", {}),
}
WHOLE = ("bhvit_small", "bhvit_tiny")
"""Models that every instruction set and PyTorch run, and that run a batch; of the others the fastest alone is timed."""
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each execution (default 5)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    add_page(parser, Path(__file__).with_name("results.md"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rows += _measure(name, Path(folder) / "model.bhv", args.seconds)
    header = (
        "Model | Execution | Threads | Batch | Median ms | p10 | p90 | Binary limit ms | Times it | With floats ms | "
        "Times it | Against 1 thread | PyTorch / this"
    ).split(" | ")
    text = f"""Milliseconds an image. Binary limit: executed binary multiply-accumulates over the peak of that \
instruction set, which a loop of XOR, population count and add on registers reaches in the same run. With floats: also \
the full-precision multiply-accumulates over the peak of multiply and add, each rounded. Peaks are times threads. \
"bhvit, a session a thread" runs one image in each of two sessions of one thread at once: what two cores give where \
nothing has to be waited for. PyTorch runs the same weights in float32, as every published binary vision transformer \
does.

{markdown(header, rows)}"""
    write_results(args.page, "Latency", text)


def _measure(label: str, path: Path, seconds: float) -> list[list[str]]:
    torch.manual_seed(0)
    name, overrides = MODELS[label]
    model = randomise(create_model(name, **overrides))
    pack(model, path, force=True)
    costs = total(op_costs(model.spec))
    image = torch.randn(1, 3, *model.spec.img_size)
    images = torch.randn(BATCH, 3, *model.spec.img_size).numpy()
    isas = available_isas() if label in WHOLE else available_isas()[:1]
    runs = []
    for threads in (1, 2):
        for isa in isas:
            session = Session(path, threads=threads, isa=isa)
            for batch in (1, BATCH) if label in WHOLE and isa == isas[0] else (1,):
                runs.append(
                    Run(
                        name="bhvit",
                        isa=isa,
                        threads=threads,
                        batch=batch,
                        call=lambda s=session, x=images[:batch]: s(x),
                    )
                )

        if label in WHOLE and threads > 1:
            runs.append(
                Run(
                    name="bhvit, a session a thread",
                    isa=isas[0],
                    threads=threads,
                    batch=threads,
                    call=_side_by_side(path, threads, isas[0], images[:1]),
                )
            )

        def by_torch() -> None:
            with torch.inference_mode():
                model(image)

        if label in WHOLE:
            runs.append(
                Run(
                    name="PyTorch",
                    isa="",
                    threads=threads,
                    batch=1,
                    call=by_torch,
                    prepare=lambda n=threads: torch.set_num_threads(n),
                )
            )
    peaks = {
        isa: [float(np.median([rate(isa) for _ in range(5)])) for rate in (peak_rate, float_peak_rate)] for isa in isas
    }
    timings = measure(runs, seconds)
    alone = {(t.name, t.isa, t.batch): t.median for t in timings if t.threads == 1}
    alone |= {(t.name, t.isa, t.batch): alone["bhvit", t.isa, 1] for t in timings if "session" in t.name}
    slow = {t.threads: t.median for t in timings if t.name == "PyTorch"}
    rows = []
    for t in timings:
        limits: list[float] = []
        if t.isa:
            binary, full = peaks[t.isa]
            limits = [1000 * costs.executed_binary_macs / binary / t.threads]
            limits.append(limits[0] + 1000 * costs.float_macs / full / t.threads)
        ratios = [text for limit in limits for text in (f"{limit:.2f}", f"{t.median / limit:.2f}")] or [""] * 4
        rows.append(
            [
                label,
                f"{t.name} {t.isa}".strip(),
                t.threads,
                t.batch,
                f"{t.median:.2f}",
                f"{t.p10:.2f}",
                f"{t.p90:.2f}",
                *ratios,
                f"{alone[t.name, t.isa, t.batch] / t.median:.2f}" if t.threads > 1 else "",
                f"{slow[t.threads] / t.median:.1f}" if slow else "",
            ]
        )
    return rows


def _side_by_side(path: Path, threads: int, isa: str, image: Any) -> Callable[[], Any]:
    """Runs an image in each of `threads` sessions of one thread, all at once."""
    sessions = [Session(path, threads=1, isa=isa) for _ in range(threads)]
    others = ThreadPoolExecutor(threads - 1)

    def call() -> None:
        waiting = [others.submit(session, image) for session in sessions[1:]]
        sessions[0](image)
        for one in waiting:
            one.result()

    return call


if __name__ == "__main__":
    main()
