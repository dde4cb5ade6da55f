"""Milliseconds an image of the published sizes at 224x224, 1000 classes, against the machine's own limit.

    python -m benchmarks.latency.latency

Random weights with random, non-degenerate norm statistics; batch 1. All executions of a model are timed
in turns in one run. The limit is the model's binary multiply-accumulates over the peak that a loop of
XOR, population count and add on registers reaches in the same run. Writes `results.md` beside this file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import markdown, write_results
from tests.randomise import randomise

from bhvit import Session
from bhvit._native import available_isas, peak_rate
from bhvit.apps.timing import Run, measure
from bhvit.costs import op_costs, total
from bhvit.models import create_model
from bhvit.packing import pack

MODELS = ("bhvit_tiny", "bhvit_small", "bhvit_tiny_fp", "bhvit_small_fp", "bhvit_nano")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each execution (default 5)")
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            rows += _measure(name, Path(folder) / "model.bhv", args.seconds)
    header = [
        "Model",
        "Execution",
        "Threads",
        "Median ms",
        "p10",
        "p90",
        "Limit ms",
        "Times the limit",
        "PyTorch / this",
    ]
    text = f"""Ratio to the limit: median over (executed binary multiply-accumulates / register peak of that \
instruction set in the same run, times threads). PyTorch runs the same weights in float32, as every \
published binary vision transformer does.

{markdown(header, rows)}"""
    write_results(Path(__file__).with_name("results.md"), "Latency, batch 1", text)


def _measure(name: str, path: Path, seconds: float) -> list[list[str]]:
    torch.manual_seed(0)
    model = randomise(create_model(name))
    pack(model, path, force=True)
    macs = total(op_costs(model.spec)).executed_binary_macs
    image = torch.randn(1, 3, *model.spec.img_size)
    array = image.numpy()
    runs = []
    for threads in (1, 2):
        for isa in available_isas():
            session = Session(path, threads=threads, isa=isa)
            runs.append(Run(name="bhvit", isa=isa, threads=threads, batch=1, call=lambda s=session: s(array)))

        def by_torch() -> None:
            with torch.inference_mode():
                model(image)

        runs.append(Run(name="PyTorch", isa="", threads=threads, batch=1, call=by_torch,
                        prepare=lambda n=threads: torch.set_num_threads(n)))  # fmt: skip
    peaks = {isa: float(np.median([peak_rate(isa) for _ in range(5)])) for isa in available_isas()}
    timings = measure(runs, seconds)
    slow = {t.threads: t.median for t in timings if t.name == "PyTorch"}
    rows = []
    for t in timings:
        limit = 1000 * macs / (peaks[t.isa] * t.threads) if t.isa else None
        rows.append([
            name, f"{t.name} {t.isa}".strip(), t.threads, f"{t.median:.2f}", f"{t.p10:.2f}", f"{t.p90:.2f}",
            f"{limit:.2f}" if limit else "", f"{t.median / limit:.2f}" if limit else "",
            f"{slow[t.threads] / t.median:.1f}",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
