"""Time executions in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BLOCK_SECONDS = 0.05
"""A turn's length: long enough that a thread pool left by the run before has gone to sleep."""
LEAST_BLOCKS = 5
LEAST_CALLS = 2
"""Timed calls of a turn, however slow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Something to time: `call` classifies `batch` images."""

    name: str
    isa: str
    threads: int
    batch: int
    call: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    """Called at the start of every turn, not timed."""
    restore: Callable[[], Any] = lambda: None
    """Called when all is measured; undoes what `prepare` changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds an image of one `Run`, over all its timed calls."""

    name: str
    isa: str
    threads: int
    batch: int
    calls: int
    median: float
    p10: float
    p90: float
    cpu: float
    """Processor time over elapsed time; one thread that has a core for itself has 1."""


def measure(
    runs: Sequence[Run], seconds: float = 2.0, progress: Callable[[int, int], None] | None = None
) -> list[Timing]:
    """Time each run for about `seconds`, in turns of BLOCK_SECONDS, after a warm-up.

    The first call of a turn is not counted: it finds caches and threads as another run left them.
    """
    try:
        return _in_turns(runs, seconds, progress)
    finally:
        for run in runs:
            run.restore()


def _in_turns(runs: Sequence[Run], seconds: float, progress: Callable[[int, int], None] | None) -> list[Timing]:
    for run in runs:  # warm-up: memory, code paths, libraries that tune themselves
        run.prepare()
        run.call()
    blocks = max(LEAST_BLOCKS, round(seconds / BLOCK_SECONDS))
    samples: list[list[float]] = [[] for _ in runs]
    cpu = [0.0] * len(runs)
    elapsed = [0.0] * len(runs)
    for block in range(blocks):
        for number, (run, times) in enumerate(zip(runs, samples, strict=True)):
            if sum(times) > max(seconds, LEAST_BLOCKS * BLOCK_SECONDS):  # slow runs need fewer turns
                continue
            run.prepare()
            run.call()
            first, cpu_first = time.perf_counter(), time.process_time()
            for call in itertools.count():
                begin = time.perf_counter()
                if call >= LEAST_CALLS and begin >= first + BLOCK_SECONDS:
                    break
                run.call()
                times.append(time.perf_counter() - begin)
            elapsed[number] += time.perf_counter() - first
            cpu[number] += time.process_time() - cpu_first
        if progress is not None:
            progress(block + 1, blocks)
    shares = [used / max(passed, 1e-9) for used, passed in zip(cpu, elapsed, strict=True)]
    return [_timing(run, times, share) for run, times, share in zip(runs, samples, shares, strict=True)]


def _timing(run: Run, times: list[float], cpu: float) -> Timing:
    p10, median, p90 = np.percentile(np.array(times) * 1000 / run.batch, (10, 50, 90))
    return Timing(
        name=run.name,
        isa=run.isa,
        threads=run.threads,
        batch=run.batch,
        calls=len(times),
        median=float(median),
        p10=float(p10),
        p90=float(p90),
        cpu=cpu,
    )


BUSY = "note: the machine was busy with other work, which slows long calls more than short ones; run it again when idle"


def busy(timings: Sequence[Timing]) -> bool:
    """Whether other work on the machine shows in the timings."""
    return any(t.p90 > 3 * t.p10 or (t.threads == 1 and t.cpu < 0.9) for t in timings)
