"""Compare a training step with the published way of computing it, on a CPU.

Measured are images a second and peak memory, in float32.

    python -m benchmarks.training.throughput [--published DIR]

The published way is `stand_in.py`, and the published code itself where DIR, a checkout of its repository, is given. All
hold the same weights, take the same batch, and give the same loss and gradient in float64, or nothing is measured. A
step is forward, cross entropy and backward. Each way has a process of its own, as in real training, since the heap's
state depends on earlier allocations; steps are taken in turns, so that other load on the machine affects all alike.
Peak memory is that of its process, less what it held before its first step. With `--keep-memory`, glibc's malloc
returns none to the system between steps, for all of them: the way that allocates most gains most. Writes
`throughput.md` next to this file.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from benchmarks.common import markdown, write_results
from benchmarks.fidelity.published_code import build
from benchmarks.training.stand_in import PublishedWay
from torch import Tensor, nn

from bhvit.models import create_model, from_published

SWITCHES = {"shift3": True, "shift5": True, "replace_ln_bn": True}
"""The launch script's switches of the published models."""


OURS, STAND_IN, PUBLISHED = "bhvit", "stand-in", "published code"

KEEP = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=67108864"
"""What GLIBC_TUNABLES makes of malloc: nothing is mapped by itself, nothing is returned."""


def executions(checkout: Path | None, name: str) -> dict[str, nn.Module]:
    """Make our model, the stand-in and, given a checkout, the published one.

    They have the same weights and are in training mode.
    """
    torch.manual_seed(0)
    if checkout is None:
        ours = create_model(name)
        return {OURS: ours.train(), STAND_IN: PublishedWay(copy.deepcopy(ours)).train()}
    published = build(checkout, name, **SWITCHES)
    ours = from_published(published.state_dict())
    return {OURS: ours.train(), STAND_IN: PublishedWay(copy.deepcopy(ours)).train(), PUBLISHED: published.train()}


def step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Forward, loss and backward; the loss."""
    model.zero_grad(set_to_none=True)
    output = model(images)
    loss = F.cross_entropy(getattr(output, "logits", output), labels)
    loss.backward()
    return loss.item()


def batch(size: int) -> tuple[Tensor, Tensor]:
    """Random images (size, 3, 224, 224) and labels (size,)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 224, 224, generator=generator), torch.arange(size)


def check_same_mathematics(models: dict[str, nn.Module]) -> None:
    """Stop unless all give the same loss and gradient norm in float64.

    No sign lies at rounding distance there.
    """
    images, labels = batch(2)
    seen = []
    for model in models.values():
        twin = copy.deepcopy(model).double()
        loss = step(twin, images.double(), labels)
        seen.append((loss, sum(p.grad.square().sum().item() for p in twin.parameters() if p.grad is not None) ** 0.5))
    loss, norm = seen[0]
    if any(abs(other[0] - loss) > 1e-8 * loss or abs(other[1] - norm) > 1e-8 * norm for other in seen):
        raise SystemExit(f"loss and norm of the gradient differ, so this compares different mathematics: {seen}")


class _Worker:
    """A way of computing in this process: model, batch, and memory before the first step."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    before: int


def _load(checkout: Path | None, name: str, execution: str, size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    _Worker.model = executions(checkout, name)[execution]
    _Worker.images, _Worker.labels = batch(size)
    _Worker.before = _peak_kib()


def _timed_step() -> tuple[float, float]:
    """Seconds of a step, and the peak memory of all so far, MiB."""
    begin = time.perf_counter()
    step(_Worker.model, _Worker.images, _Worker.labels)
    return time.perf_counter() - begin, (_peak_kib() - _Worker.before) / 1024


def measure(
    checkout: Path | None, name: str, size: int, threads: int, steps: int, least: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time each step, in turns, in seconds, and peak memory in MiB.

    The first step of each sets quantisers from data and is left out.

    As many turns as `steps`, or as `least` seconds allow, whichever are more.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {
            execution: stack.enter_context(
                ProcessPoolExecutor(1, spawn, _load, (checkout, name, execution, size, threads))
            )
            for execution in (OURS, STAND_IN, *([PUBLISHED] if checkout else []))
        }
        turns: list[dict[str, tuple[float, float]]] = []
        end = time.perf_counter() + least
        while len(turns) <= steps or time.perf_counter() < end:
            turns.append({each: worker.submit(_timed_step).result() for each, worker in workers.items()})
    return (
        {each: [turn[each][0] for turn in turns[1:]] for each in workers},
        {each: turns[-1][each][1] for each in workers},
    )


def _peak_kib() -> int:
    """The most resident memory that this process ever had (Linux), KiB; ru_maxrss counts its parent's, too."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="checkout of the published BHViT repository")
    parser.add_argument(
        "--cases", nargs="+", default=["bhvit_tiny:4", "bhvit_small:4", "bhvit_tiny:16"], metavar="MODEL:BATCH"
    )
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--steps", type=int, default=7, help="turns at least")
    parser.add_argument("--seconds", type=float, default=60, help="the same, of each case")
    parser.add_argument("--keep-memory", nargs="*", default=[], metavar="MODEL:BATCH", help="cases that do so, too")
    args = parser.parse_args()

    for name in dict.fromkeys(case.split(":")[0] for case in (*args.cases, *args.keep_memory)):
        check_same_mathematics(executions(args.published, name))
    rows = []
    for case, keep in [*((case, False) for case in args.cases), *((case, True) for case in args.keep_memory)]:
        name, size = case.split(":")[0], int(case.split(":")[1])
        for threads in map(int, args.threads.split(",")):
            with patch.dict(os.environ, {"GLIBC_TUNABLES": KEEP} if keep else {}):
                times, peaks = measure(args.published, name, size, threads, args.steps, args.seconds)
            rows += _rows(name, f"{size}, memory kept" if keep else str(size), threads, size, times, peaks)
            print(*rows[-len(times) :], sep="\n", flush=True)
    header = (
        "Model | Batch | Threads | Execution | Steps | Median s a step | p10 | p90 | Images/s | "
        "Of bhvit's images/s | Peak MiB | bhvit's peak of it"
    ).split(" | ")
    text = f"""224×224, 1000 classes, float32, no optimiser step; each way in a process of its own, steps in turns. \
"Memory kept": malloc returns none to the system, as `bhvit train` has it.

{markdown(header, rows)}"""
    write_results(Path(__file__).with_name("throughput.md"), "A training step compared with the published way", text)


def _rows(
    name: str, label: str, threads: int, size: int, times: dict[str, list[float]], peaks: dict[str, float]
) -> list[list[object]]:
    decile: Callable[[list[float], int], float] = lambda values, k: statistics.quantiles(values, n=10)[k]  # noqa: E731
    rows: list[list[object]] = []
    for execution, values in times.items():
        ratio = statistics.median(other / ours for ours, other in zip(times[OURS], values, strict=True))
        rows.append(
            [
                name,
                label,
                threads,
                execution,
                len(values),
                f"{statistics.median(values):.2f}",
                f"{decile(values, 0):.2f}",
                f"{decile(values, 8):.2f}",
                f"{size / statistics.median(values):.2f}",
                "" if execution == OURS else f"1 / {ratio:.2f}",
                f"{peaks[execution]:.0f}",
                "" if execution == OURS else f"{peaks[OURS] / peaks[execution]:.0%}",
            ]
        )
    return rows


if __name__ == "__main__":
    main()
