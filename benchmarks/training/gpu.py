"""A training step on a GPU: images a second, peak memory, and where the time goes, for each way of computing it.

    python -m benchmarks.training.gpu [--published DIR]

It needs no network, ends within about `--seconds` (under four minutes), and writes the page again after each
measurement, so that a run that is stopped leaves what it had. `sh benchmarks/gpu_session.sh` runs it from a source tree
without installing. A step is forward, cross entropy, backward and AdamW, bfloat16 by autocast on a GPU. Ways, each with
a model of its own:

- published: the published code, where DIR is a checkout of its repository;
- plain: the layers as they are written;
- fused: with the Triton kernels, which is what training does on a GPU without compiling;
- graphs: the same as a CUDA graph;
- compiled: the layers as they are written, each block compiled by Inductor;
- compiled graphs: the same as a CUDA graph;
- train: `bhvit train`'s own step with augmentation and batches, fused, as a CUDA graph.

A step that could not be captured as a graph counts as failed, with the reason. Ways that compile come last, because
compiling takes most of a minute for each model.

Writes `gpu.md` next to this file, with a profile of one way by kind of kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.common import add_page, markdown, write_results
from torch import Tensor, nn

from bhvit.image import Preprocess
from bhvit.models import create_model
from bhvit.models.blocks import Block
from bhvit.models.fused import conditions
from bhvit.train import TrainConfig
from bhvit.train.compilation import allow_for_blocks
from bhvit.train.context import RunContext
from bhvit.train.execution import reproducible
from bhvit.train.graphs import Capture, StaticStep, cuda_graph
from bhvit.train.phase import Phase

CASES = ("bhvit_nano:32:512", "bhvit_small:224:128", "bhvit_tiny:224:128")
WAYS = ("published", "plain", "fused", "graphs", "compiled", "compiled graphs", "train")
COMPILING = "compiled", "compiled graphs"
COMPILE_SECONDS = 50
"""Time without which a model is not compiled."""
KINDS = {
    "matrix products": r"gemm|cutlass|xmma|nvjet|addmm|\bmm\b|bmm|matmul",
    "convolutions": r"conv|implicit|wgrad|dgrad|fprop",
    "Triton kernels": r"^_?(column_moments|finish_moments|unit|signs|binarise|softmax_levels|cross)|^triton_",
    "copies and casts": r"copy|memcpy|cat|memset|fill",
    "optimiser": r"adam|multi_tensor",
    "reductions": r"reduce|norm|sum|mean",
    "elementwise": r"elementwise|add|mul|where|clamp|prelu|index|roll",
}
"""Kinds of kernels by what is in their names, the first that fits."""


def capture_on(device: torch.device) -> Capture | None:
    """What captures a step; on a CPU nothing does, and the same step is called."""
    return cuda_graph if device.type == "cuda" else None


class Batch:
    """A model in training and one batch, in one of the ways."""

    def __init__(self, name: str, size: int, batch: int, way: str, device: torch.device, checkout: Path | None) -> None:
        torch.manual_seed(0)
        self.device, self.way = device, way
        self.model = _published(checkout, name) if way == "published" else create_model(name, img_size=size)
        self.model.to(device).train()
        if way in COMPILING:
            allow_for_blocks(self.model)
            for module in self.model.modules():
                if isinstance(module, Block):
                    module.compile(dynamic=False)
        options = {"capturable": True} if device.type == "cuda" else {}
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True, **options)
        self.optimizer._warned_capturable_if_run_uncaptured = True
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, size, size, generator=generator).to(device)
        labels = (torch.arange(batch) % 10).to(device)
        self.inputs = {"images": images, "labels": labels}
        self.static: StaticStep | None = None
        if "graphs" in way:
            self.static = StaticStep(self._compute, device, capture_on(device), _fail)

    def step(self) -> Tensor:
        """Take a step. The loss."""
        with _layers(fused=self.way in ("fused", "graphs")):
            return self._compute(self.inputs, 0) if self.static is None else self.static(self.inputs, 0)

    def _compute(self, inputs: Any, seed: int | None) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext():
            output = self.model(inputs["images"])
            loss = F.cross_entropy(getattr(output, "logits", output).float(), inputs["labels"])
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Loop:
    """The step of `bhvit train`: batches of decoded images in memory, augmentation, a moving average of none."""

    def __init__(self, name: str, size: int, batch: int, device: torch.device, **changes: Any) -> None:
        images = 8 * batch
        settings = {"augment": "shift", "batch_size": batch, "img_size": size, "compile": False, "epochs": 1000}
        config = TrainConfig.from_dict({"data": "random", "out": "-", "model": name, **settings, **changes})
        preprocess = Preprocess.usual((size, size), 3)
        pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)
        torch.manual_seed(0)
        train: Any = _Random(images)
        data: Any = SimpleNamespace(train=train, preprocess=preprocess)
        before: Any = SimpleNamespace(batches=SimpleNamespace(pixels=torch.from_numpy(pixels)))
        self.phase = Phase(config, data, None, RunContext(device=device, quiet=True), before)
        self.phase.model.train()
        if self.static is not None:
            self.static._say = _fail
        self.batches = self._forever()
        self.done = 0

    @property
    def static(self) -> StaticStep | None:
        """What takes the steps on a GPU."""
        return self.phase.step._static

    def _forever(self) -> Iterator[Any]:
        for epoch in range(10**9):
            yield from self.phase.batches.drawn(epoch)

    def step(self) -> Tensor:
        """Take a step. The loss."""
        with reproducible():
            outcome = self.phase.step(next(self.batches), self.done, self.done)
        self.done += 1
        return outcome[0]


class _Random:
    """As much of a data set as batches of decoded images ask for."""

    class_names = tuple(map(str, range(10)))
    blocks, window = None, 1

    def __init__(self, images: int) -> None:
        self.labels = np.arange(images) % len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)


def _published(checkout: Path | None, name: str) -> nn.Module:
    from benchmarks.fidelity.published_code import build
    from benchmarks.training.throughput import SWITCHES

    assert checkout is not None
    return build(checkout, name, **SWITCHES)


@contextmanager
def _layers(*, fused: bool) -> Iterator[None]:
    """Within it layers are fused by Triton kernels, or computed as they are written."""
    with nullcontext() if fused else patch.object(conditions, "takes_triton", lambda x: None):
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(line: str) -> None:
    raise RuntimeError(line.removeprefix("warning: "))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(make: Callable[[], Any], device: torch.device, seconds: float) -> dict[str, Any]:
    """Milliseconds of a step, peak MiB and seconds until the first six steps are over, or why there are none.

    Steps are launched up to ten at a time and waited for together, so that a way that waits for nothing shows it.
    """
    gc.collect()  # models and graphs of the way before
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    begin = time.perf_counter()
    try:
        subject = make()
        for _ in range(6):  # a graph is captured in the fourth
            _wait(device)
            start = time.perf_counter()
            loss = subject.step()
        _wait(device)
        ready = time.perf_counter() - begin
        count = max(1, min(10, int(0.5 / (time.perf_counter() - start)))) if device.type == "cuda" else 1
        times: list[float] = []
        while len(times) < 2 or (time.perf_counter() - begin < seconds and len(times) < 30):
            start = time.perf_counter()
            for _ in range(count):
                loss = subject.step()
            _wait(device)
            times.append((time.perf_counter() - start) / count)
        if not bool(loss.isfinite()):
            raise RuntimeError("the loss is not finite")
        peak = torch.cuda.max_memory_reserved(device) >> 20 if device.type == "cuda" else 0
        return {"ms": 1e3 * statistics.median(times), "mib": peak, "ready": ready}
    except Exception as error:  # a way that fails leaves the others their turn
        return {"failed": _reason(error)}


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:150].replace("|", "/")


def profile(subject: Any, device: torch.device, steps: int = 3) -> list[list[object]]:
    """Milliseconds of a step and calls by kind of kernel; of operations, on a CPU."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    cuda = device.type == "cuda"
    for _ in range(5):
        subject.step()
    _wait(device)
    with profiling(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            subject.step()
        _wait(device)
    totals: dict[str, list[float]] = {}
    for event in seen.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if not spent:  # the CPU's calls, where the GPU's time is asked for
            continue
        total = totals.setdefault(kind_of(event.key), [0.0, 0])
        total[0] += spent / steps / 1e3
        total[1] += event.count / steps
    whole = sum(spent for spent, _ in totals.values()) or 1.0
    ordered = sorted(totals.items(), key=lambda item: -item[1][0])
    return [[kind, f"{spent:.2f}", f"{spent / whole:.0%}", f"{calls:.0f}"] for kind, (spent, calls) in ordered]


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    return next((kind for kind, names in KINDS.items() if re.search(names, kernel, re.IGNORECASE)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="checkout of the published BHViT repository")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL:SIZE:BATCH")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=220, help="time for everything")
    add_page(parser, Path(__file__).with_name("gpu.md"))
    args = parser.parse_args()
    device = torch.device(args.device)
    end = time.perf_counter() + args.seconds

    jobs = [
        (case, way)
        for case in args.cases
        for way in args.ways
        if way != "published" or (args.published is not None and "nano" not in case)
    ]
    rows: dict[tuple[str, str], list[object]] = {}
    profiles: list[str] = []
    in_turn = sorted(jobs, key=lambda job: job[1] in COMPILING)
    for index, (case, way) in enumerate(in_turn):
        left = end - time.perf_counter()
        share = left / (len(jobs) - index)
        name, size, batch = case.split(":")[0], *map(int, case.split(":")[1:])
        cell = [name, f"{size}×{size}", batch, way]
        if device.type == "cuda" and left < (COMPILE_SECONDS if way in COMPILING else 5):
            rows[case, way] = [*cell, "", "", "", "no time left"]
            continue
        make: Callable[[], Any] = (
            (lambda: Loop(name, size, batch, device))  # noqa: B023 (called below)
            if way == "train"
            else (lambda: Batch(name, size, batch, way, device, args.published))  # noqa: B023
        )
        found = measure(make, device, min(share, 8))
        if "failed" in found:
            rows[case, way] = [*cell, "", "", "", found["failed"]]
        else:
            speed = 1e3 * batch / found["ms"]
            numbers = f"{found['ms']:.1f}", f"{speed:,.0f}", f"{found['mib']:,}", f"{found['ready']:.0f} s to begin"
            rows[case, way] = [*cell, *numbers]
        _say(" | ".join(map(str, rows[case, way])))
        if way == "fused" and "failed" not in found:
            title = f"## {name}, {size}×{size}, batch {batch}, fused"
            header = ["Kernels", "ms a step", "Share", "Launches a step"]
            try:
                profiles.append(f"{title}\n\n{markdown(header, profile(make(), device))}")
            except Exception as error:  # the profiler's own failures
                profiles.append(f"{title}\n\nNo profile: {_reason(error)}")
        with contextlib.redirect_stdout(io.StringIO()):  # shown once, at the end
            _write(args.page, device, [rows[job] for job in jobs if job in rows], profiles)
    _write(args.page, device, [rows[job] for job in jobs if job in rows], profiles)


def _write(page: Path, device: torch.device, rows: list[list[object]], profiles: list[str]) -> None:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    precision = "bfloat16" if device.type == "cuda" else "float32"
    header = ["Model", "Images", "Batch", "Way", "ms a step", "Images/s", "Peak MiB", "Note"]
    text = f"""{card}, {precision}: forward, cross entropy, backward, AdamW; medians. Peak memory is what PyTorch's \
allocator reserved.

{markdown(header, rows)}

{chr(10).join(profiles)}"""
    write_results(page, "A training step on a GPU", text)


if __name__ == "__main__":
    main()
