"""Time bhvit and other networks at 224x224, 1000 classes, batch 1, in one run.

    python -m benchmarks.latency.peers

timm's models with random weights and random, non-degenerate norm statistics, exported to ONNX; int8 is ONNX Runtime's
static quantisation (a scale a channel of weights, calibrated on noise), which OpenVINO runs, too. Accuracies are those
that the networks' authors publish for ImageNet. Needs onnx, onnxscript, onnxruntime and openvino in addition
to the development environment. With `--larq PYTHON`, which has Larq Compute Engine (`quicknet.py` says how), also
QuickNet, in a process of its own that is told over a pipe when to run. Writes `peers.md`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from benchmarks import onnx_files
from benchmarks.common import add_page, markdown, write_results

import bhvit
from bhvit.models import create_model
from bhvit.timing import Run, measure
from helpers.randomise import randomise

OURS = {"bhvit_small": "68.4", "bhvit_tiny": "64.0", "bhvit_small_fp": "70.1", "bhvit_tiny_fp": "66.0"}
PEERS = {
    "resnet18": "69.8",
    "deit_tiny_patch16_224": "72.2",
    "deit_small_patch16_224": "79.9",
    "mobilenetv3_large_100": "75.0",
    "mobilenetv3_small_100": "67.7",
}
"""Models and their published ImageNet top-1."""
LARQ = {"QuickNetLarge": "66.9", "QuickNet": "63.3"}
CALIBRATION_IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each execution (default 4)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--larq", type=Path, help="python of an environment with Larq Compute Engine")
    add_page(parser, Path(__file__).with_name("peers.md"))
    args = parser.parse_args()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    entries, runs = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entry, call, threads in _executions(folder, args.threads, args.larq):
            entries.append(entry)
            runs.append(Run(name=" ".join(entry), isa="", threads=threads, batch=1, call=lambda call=call: call(image)))
        timings = measure(runs, args.seconds)
    rows = []
    small = {t.threads: t.median for e, t in zip(entries, timings, strict=True) if e[:2] == ("bhvit_small", "bhvit")}
    for (model, engine, precision), timing in zip(entries, timings, strict=True):
        rows.append(
            [
                model,
                (OURS | PEERS | LARQ)[model],
                engine,
                precision,
                timing.threads,
                f"{timing.median:.2f}",
                f"{timing.p10:.2f}",
                f"{timing.p90:.2f}",
                f"{timing.median / small[timing.threads]:.2f}",
            ]
        )
    header = (
        "Model | ImageNet top-1 | Run by | Precision | Threads | Median ms | p10 | p90 | Times bhvit_small"
    ).split(" | ")
    import onnxruntime
    import openvino

    text = f"""Batch 1, random weights, executions in turns. ONNX Runtime {onnxruntime.__version__}, OpenVINO \
{openvino.__version__.split("-")[0]}; "default" is the precision that OpenVINO chooses by itself.

{markdown(header, rows)}"""
    write_results(args.page, "bhvit compared with other networks", text)


Execution = tuple[tuple[str, str, str], Callable[[Any], Any], int]


def _executions(folder: Path, threads: list[int], larq: Path | None) -> Iterator[Execution]:
    for name in OURS:
        torch.manual_seed(0)
        packed = folder / f"{name}.bhv"
        bhvit.pack(randomise(create_model(name)), packed)
        for count in threads:
            session = bhvit.Session(packed, threads=count)
            yield (name, "bhvit", f"1 bit ({session.isa})"), session, count
    for name in PEERS:
        floats, ints = _exported(name, folder)
        for count in threads:
            for precision, file in (("float32", floats), ("int8", ints)):
                yield (name, "ONNX Runtime", precision), onnx_files.onnxruntime(file, count), count
            for precision, file in (("float32", floats), ("default", floats), ("int8", ints)):
                yield (name, "OpenVINO", precision), onnx_files.openvino(file, count, precision), count
    if larq:
        for name in LARQ:
            for count in threads:
                yield (name, "Larq Compute Engine 0.13", "1 bit (use_indirect_bgemm)"), _larq(larq, name, count), count


def _larq(python: Path, name: str, threads: int) -> Callable[[Any], Any]:
    """One image for each call, in a process that ends with this one: its input is then closed."""
    command = [str(python), str(Path(__file__).with_name("quicknet.py")), name, str(threads)]
    # Packages that were put in this interpreter's way are none of the other's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdin
    assert process.stdout
    stdin, stdout = process.stdin, process.stdout

    def call(_: Any) -> None:
        print(file=stdin, flush=True)
        if stdout.readline() != "done\n":
            raise RuntimeError(f"{name} stopped in the middle")

    if not any(line == "ready\n" for line in stdout):
        raise SystemExit(f"{name} does not run under {python}: try {' '.join(command)}")
    return call


def _exported(name: str, folder: Path) -> tuple[Path, Path]:
    """The network in float32 and in int8, as ONNX files."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    floats, ints = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
    onnx_files.export(model, floats, (224, 224))
    noise = np.random.default_rng(1).standard_normal((CALIBRATION_IMAGES, 3, 224, 224)).astype(np.float32)
    onnx_files.quantise(floats, ints, noise)
    return floats, ints


if __name__ == "__main__":
    main()
