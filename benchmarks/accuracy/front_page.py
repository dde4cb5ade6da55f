"""What `front` keeps and shows: results, times, the table; the figure is drawn from the table."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import onnx_files
from benchmarks.accuracy.contenders import CONTENDERS, Contender
from benchmarks.accuracy.small_images import operations
from benchmarks.common import ROOT, markdown, write_results
from torch import nn

import bhvit
from bhvit.cost.counts import op_costs, total
from bhvit.models import create_model
from bhvit.system import environment
from helpers.randomise import randomise

HERE = Path(__file__).parent
RESULTS, TIMES, PAGE = HERE / "logs" / "front.jsonl", HERE / "logs" / "front-times.json", HERE / "front.md"
ENGINES = ("bhvit", "ONNX Runtime", "OpenVINO")
HEADER = (
    "Network | Precision | Top-1 | Spread, points | Epochs | Training images | Seeds | File, MB | OPs, M | "
    "ms, bhvit | ms, ONNX Runtime | ms, OpenVINO | Training, CPU minutes"
).split(" | ")
NOT_TRAINED = "not trained yet"
TURNS, TURN_SECONDS = 9, 0.03

Result = dict[str, Any]


def collect(out: Path) -> None:
    """Take the results of `out` into RESULTS; one of the same network, budget and seed replaces the older one."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    rows += [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    order = [contender.name for contender in CONTENDERS]
    keyed = {(order.index(r["network"]), r["epochs"], r["images"], r["seed"]): r for r in rows}
    RESULTS.write_text("".join(json.dumps(keyed[key]) + "\n" for key in sorted(keyed)))


def times(contenders: Sequence[Contender]) -> None:
    """Time every network with random weights, and keep file sizes, OPs and milliseconds in TIMES."""
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    found: dict[str, Any] = {}
    places, calls = [], []
    with tempfile.TemporaryDirectory() as name:
        for index, contender in enumerate(contenders):
            folder = Path(name) / str(index)
            folder.mkdir()
            model, ops = _random(contender)
            found[contender.name] = {"ops": ops, "megabytes": {}, "ms": {}}
            for precision, engine, file, call in _executions(contender, model, folder):
                found[contender.name]["megabytes"].setdefault(precision, file.stat().st_size / 1e6)
                places.append((found[contender.name]["ms"].setdefault(precision, {}), engine))
                calls.append(lambda call=call: call(image))
        timings = cpu_milliseconds(calls)
    for (place, engine), milliseconds in zip(places, timings, strict=True):
        place[engine] = milliseconds
    import onnxruntime
    import openvino

    engines = f"ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__.split('-')[0]}"
    machine = "; ".join(f"{key} {value}" for key, value in environment().items())
    TIMES.write_text(json.dumps({"machine": machine, "engines": engines, "networks": found}, indent=1) + "\n")


def cpu_milliseconds(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Return the processor time of each call, in turns: the median of TURNS turns of TURN_SECONDS.

    On one thread of an idle machine that is the time that passes. On a busy one it is not: a call that others interrupt
    takes longer, and long calls are interrupted more often than short ones.
    """
    turns: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS):
        for call, found in zip(calls, turns, strict=True):
            call()  # finds caches and threads as another one left them
            count, begin = 0, time.process_time()
            while count == 0 or time.process_time() - begin < TURN_SECONDS:
                call()
                count += 1
            found.append(1000 * (time.process_time() - begin) / count)
    return [statistics.median(found) for found in turns]


def _random(contender: Contender) -> tuple[nn.Module, float]:
    """The network with random weights and norm statistics, and its OPs of an image."""
    torch.manual_seed(0)
    if contender.network is None:
        ours = randomise(create_model("bhvit_nano", num_classes=10, **contender.settings))
        return ours, total(op_costs(ours.spec)).ops
    model = contender.network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval(), operations(model, (32, 32))


def _executions(
    contender: Contender, model: nn.Module, folder: Path
) -> Iterator[tuple[str, str, Path, Callable[[Any], Any]]]:
    """Precision, engine, file and call of every way to run a network on one thread."""
    from benchmarks.accuracy.front import PACKED, exported

    if contender.network is None:
        bhvit.pack(model, folder / PACKED)  # type: ignore[arg-type]
        precision = "float32" if contender.floating else "1 bit"
        yield precision, "bhvit", folder / PACKED, bhvit.Session(folder / PACKED, threads=1)
    if contender.floating:
        noise = np.random.default_rng(1).standard_normal((8, 3, 32, 32)).astype(np.float32)
        for precision, file in exported(model, folder, noise).items():
            yield precision, "ONNX Runtime", file, onnx_files.onnxruntime(file)
            yield precision, "OpenVINO", file, onnx_files.openvino(file, precision=precision)


def rows(results: Sequence[Result], networks: dict[str, Any]) -> list[list[str]]:
    """The table: a row for each network, precision and budget; networks without a result say so."""
    table = []
    for contender in CONTENDERS:
        timed = networks.get(contender.name, {"ops": None, "megabytes": {}, "ms": {}})
        own = [result for result in results if result["network"] == contender.name]
        budgets: dict[tuple[int, int], list[Result]] = {}
        for result in own:
            budgets.setdefault((result["epochs"], result["images"]), []).append(result)
        precisions = list(dict.fromkeys([*timed["ms"], *(name for result in own for name in result["top1"])]))
        for precision in precisions or ["float32" if contender.floating else "1 bit"]:
            fixed = [_number(timed["megabytes"].get(precision), 2), _number(timed["ops"] and timed["ops"] / 1e6, 2)]
            fixed += [_number(timed["ms"].get(precision, {}).get(engine), 3) for engine in ENGINES]
            for (epochs, images), group in sorted(budgets.items()):
                top1 = [100 * result["top1"][precision] for result in group if precision in result["top1"]]
                if top1:
                    seeds = " ".join(str(result["seed"]) for result in group)
                    spread = f"{statistics.stdev(top1):.2f}" if len(top1) > 1 else "one seed"
                    counted = [result["cpu_minutes"] for result in group if result["cpu_minutes"] is not None]
                    minutes = _number(statistics.mean(counted) if counted else None, 1)
                    accuracy = f"{statistics.mean(top1):.2f} %"
                    budget = [accuracy, spread, str(epochs), f"{images:,}", seeds]
                    table.append([contender.name, precision, *budget, *fixed, minutes])
            if not own:
                table.append([contender.name, precision, NOT_TRAINED, "", "", "", "", *fixed, ""])
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write_page() -> None:
    """Write the page and the figure."""
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    timed = json.loads(TIMES.read_text()) if TIMES.exists() else {"networks": {}}
    figure, times_of = "", "Times and file sizes are not measured yet."
    if timed["networks"]:
        figure = "![CIFAR-10 accuracy against milliseconds and file size](../../docs/figures/front.svg)\n\n"
        times_of = f"""Times: batch 1, one thread, processor time of calls in turns, median, random weights; \
{timed["engines"]}; {timed["machine"]}."""
    text = f"""{figure}CIFAR-10 (JPEG copies), 32×32, from scratch. Rows of the same epochs and training images can be \
compared; these budgets are so small that they say how networks begin to learn, not where they end: published networks \
train for 200 to 600 epochs. Each has the recipe that suits it: `cifar10` (AdamW) for networks of bits and \
MobileNetV3, SGD with weight \
decay for ResNets and DarkNet; in rows of 50,000 images, which an earlier version trained, all have AdamW, and CPU \
minutes were not counted. Top-1 is that of the last epoch's weights on the 10,000 test images, measured with a file \
of the row's precision. Networks that are not trained yet have times and sizes, because these do not depend on the \
weights.

{times_of} OPs are binary multiply-accumulates / 64 + others. No engine here runs the binary ResNet-20 as \
bits: its files and times are those of its signs as float32 or int8. The bundled `cifar10` is the second network after \
more training and with a teacher: see its [card](../../src/bhvit/bundled/cifar10.md).

{markdown(HEADER, rows(results, timed["networks"]))}"""
    write_results(PAGE, "Accuracy against time and size", text)
    subprocess.run([sys.executable, str(ROOT / "docs" / "draw_figures.py")], check=True)
