"""A training step beside the published way of computing it: images a second and peak memory, float32, on the CPU.

    python -m benchmarks.training.throughput [--published DIR]

The published way is `stand_in.py`, and the published code itself where DIR, a checkout of its repository, is given. All
hold the same weights, take the same batch, and give the same loss and gradient in float64, or nothing is measured. A
step is forward, cross entropy and backward. Steps run in turns in one process, so that whatever else the machine does
falls on all alike; peak memory is that of a process of its own, less what it held before its first step. Writes
`throughput.md` beside this file.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

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


def executions(checkout: Path | None, name: str) -> dict[str, nn.Module]:
    """Our model, the stand-in, and the published one if there is a checkout, with the same weights in training mode."""
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


def refuse_other_mathematics(models: dict[str, nn.Module]) -> None:
    """Stop unless both give the same loss and total gradient in float64, where no sign lies at rounding distance."""
    images, labels = batch(2)
    seen = []
    for model in models.values():
        twin = copy.deepcopy(model).double()
        loss = step(twin, images.double(), labels)
        seen.append((loss, sum(p.grad.square().sum().item() for p in twin.parameters() if p.grad is not None) ** 0.5))
    loss, norm = seen[0]
    if any(abs(other[0] - loss) > 1e-8 * loss or abs(other[1] - norm) > 1e-8 * norm for other in seen):
        raise SystemExit(f"loss and norm of the gradient differ, so this compares different mathematics: {seen}")


def seconds(models: dict[str, nn.Module], size: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step, in turns, after one step of each that sets quantisers from the data."""
    images, labels = batch(size)
    for model in models.values():
        step(model, images, labels)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(steps):
        for name, model in models.items():
            begin = time.perf_counter()
            step(model, images, labels)
            times[name].append(time.perf_counter() - begin)
    return times


def peak_mib(checkout: Path | None, name: str, execution: str, size: int) -> float:
    """Peak memory of two steps in a new process, less what it held before them, MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (checkout, name, execution, size))


def _peak(checkout: Path | None, name: str, execution: str, size: int) -> float:
    model = executions(checkout, name)[execution]
    images, labels = batch(size)
    before = _peak_kib()
    for _ in range(2):
        step(model, images, labels)
    return (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    """The most resident memory that this process ever had (Linux), KiB; ru_maxrss counts its parent's, too."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="checkout of the published BHViT repository")
    parser.add_argument("--cases", nargs="+", default=["bhvit_tiny:4", "bhvit_small:4", "bhvit_tiny:16"],
                        metavar="MODEL:BATCH")  # fmt: skip
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--steps", type=int, default=7)
    args = parser.parse_args()

    rows = []
    checked = set()
    for case in args.cases:
        name, size = case.split(":")[0], int(case.split(":")[1])
        models = executions(args.published, name)
        if name not in checked:
            refuse_other_mathematics(models)
            checked.add(name)
        peaks = {execution: peak_mib(args.published, name, execution, size) for execution in models}
        for threads in map(int, args.threads.split(",")):
            torch.set_num_threads(threads)
            rows += _rows(name, threads, size, seconds(models, size, args.steps), peaks)
    header = ("Model", "Batch", "Threads", "Execution", "Median s a step", "p10", "p90", "Images/s",
              "Of bhvit's images/s", "Peak MiB", "bhvit's peak of it")  # fmt: skip
    text = f"224×224, 1000 classes, float32, no optimiser step.\n\n{markdown(header, rows)}"
    write_results(Path(__file__).with_name("throughput.md"), "A training step beside the published way", text)


def _rows(
    name: str, threads: int, size: int, times: dict[str, list[float]], peaks: dict[str, float]
) -> list[list[object]]:
    decile: Callable[[list[float], int], float] = lambda values, k: statistics.quantiles(values, n=10)[k]  # noqa: E731
    rows: list[list[object]] = []
    for execution, values in times.items():
        ratio = statistics.median(other / ours for ours, other in zip(times[OURS], values, strict=True))
        rows.append([
            name, size, threads, execution, f"{statistics.median(values):.2f}", f"{decile(values, 0):.2f}",
            f"{decile(values, 8):.2f}", f"{size / statistics.median(values):.2f}",
            "" if execution == OURS else f"1 / {ratio:.2f}",
            f"{peaks[execution]:.0f}", "" if execution == OURS else f"{peaks[OURS] / peaks[execution]:.0%}",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
