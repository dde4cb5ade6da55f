"""Time each op of a packed model, next to the machine's limit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from ..cost.counts import op_costs
from ..format.file import PackedModel
from ..runtime import Session
from .runs import labeller, noise

PROFILE_TURNS = 20
"""Whole calls, then profiled calls, in each turn."""


def profile_ops(
    path: Path, file: PackedModel, isa: str, threads: int, seconds: float, max_memory: int | None = None
) -> dict[str, Any]:
    """Time each op, and count what it does in that time.

    "outside" is what a whole call takes beyond its ops: Python, the checks of the images, the logits' array. Raises
    UserError if the file cannot be used.
    """
    session = Session(path, threads=threads, isa=isa, max_memory=max_memory)
    images, call = noise(file, 1), labeller(session)
    calls: list[float] = []
    parts: list[list[float]] = []
    call(images)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(calls) < PROFILE_TURNS:
        for _ in range(PROFILE_TURNS):  # in turns, so that the parts and the whole see the same machine
            begin = time.perf_counter()
            call(images)
            calls.append((time.perf_counter() - begin) * 1e6)
        timed = session.program.profile(images[0], PROFILE_TURNS)
        parts.append([nanoseconds / 1000 for _, _, nanoseconds in timed])
    whole = float(np.median(calls))
    microseconds = np.median(np.array(parts), axis=0)
    costs = {cost.name: cost for cost in op_costs(file.spec)}
    return {
        "isa": session.isa,
        "threads": threads,
        "microseconds": whole,
        "outside": whole - float(microseconds.sum()),
        "peak_binary_macs_per_second": _native.peak_rate(isa) * threads,
        "peak_float_macs_per_second": _native.float_peak_rate(isa) * threads,
        "ops": [
            {
                "name": name,
                "kind": kind,
                "microseconds": float(took),
                "share": float(took) / whole,
                "binary_macs_per_second": costs[name].executed_binary_macs / float(took) * 1e6,
                "float_macs_per_second": costs[name].float_macs / float(took) * 1e6,
            }
            for (name, kind, _), took in zip(timed, microseconds, strict=True)
        ],
    }
