"""Measure the time to open a model and the memory of a running session.

At 224x224, 1000 classes, batch 1.

    python -m benchmarks.memory.memory

Every number comes from fresh processes, which import NumPy and bhvit (not PyTorch), note what they hold, open, run
and note it again. Cold: the file's pages are dropped from the system's cache before opening (posix_fadvise), so
that the disk is read. Random weights. Writes `results.md` next to this file.

Resident memory is counted in three parts, as Linux does (/proc/self/status): RssAnon, which is the process's own;
the mapped weights (RssFile), clean pages that the system may drop, and that all processes with the same file open
share; and VmHWM, the largest sum there ever was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, markdown, write_results

MODELS = ("bhvit_nano", "bhvit_tiny", "bhvit_small", "bhvit_small_fp")
ROUNDS = 15
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--child", nargs=3, metavar=("FILE", "THREADS", "COLD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_child(Path(args.child[0]), int(args.child[1]), args.child[2] == "1")))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        for name in args.models:
            path = Path(folder) / "model.bhv"
            _write(name, path)
            for threads in args.threads:
                rows.append(_row(name, path, threads))
    header = (
        "Model | File | Threads | Open, warm | p10 | p90 | Open, cold | Own memory | Mapped | Peak, beyond Python | "
        "Peak of one run | Python itself"
    ).split(" | ")
    text = f"""Milliseconds and MiB, medians over {ROUNDS} processes. "Own memory" is what RssAnon grew by from before \
opening to after three runs, "Mapped" what RssFile grew by (the weights, and pages of NumPy's and the engine's code \
touched for the first time), "Peak, beyond Python" what the peak of resident memory grew by, both kinds together; \
"Peak of one run" is the part of the peak that came after opening. "Python itself" was resident before: the \
interpreter, NumPy, Pillow and bhvit.

{markdown(header, rows)}"""
    write_results(Path(__file__).with_name("results.md"), "Opening and memory, batch 1", text)


def _write(name: str, path: Path) -> None:
    from bhvit.format import file as bhv_file
    from bhvit.models import model_spec
    from helpers.random_model import random_model

    model = random_model(model_spec(name))
    tensors = dict(model.tensors)
    tensors["head.weight"] = tensors["head.weight"].astype("float16")  # as packing stores it
    bhv_file.write(bhv_file.PackedModel(**{**vars(model), "tensors": tensors}), path)


def _row(name: str, path: Path, threads: int) -> list[str]:
    found = {
        cold: [
            json.loads(
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.memory.memory", "--child", str(path), str(threads), str(cold)],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd=ROOT,
                ).stdout
            )
            for _ in range(ROUNDS)
        ]
        for cold in (0, 1)
    }

    def middle(key: str, cold: int = 0) -> float:
        return statistics.median(child[key] for child in found[cold])

    times = sorted(child["open"] for child in found[0])
    mib = [f"{middle(key) / MIB:.1f}" for key in ("anon", "file", "peak", "run", "before")]
    return [
        name,
        f"{path.stat().st_size / MIB:.2f}",
        str(threads),
        f"{statistics.median(times):.1f}",
        f"{times[len(times) // 10]:.1f}",
        f"{times[-1 - len(times) // 10]:.1f}",
        f"{middle('open', 1):.1f}",
        *mib,
    ]


def _child(path: Path, threads: int, cold: bool) -> dict[str, float]:
    import numpy as np

    from bhvit import Session

    if cold:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    before = _status()
    begin = time.perf_counter()
    session = Session(path, threads=threads)
    opened = time.perf_counter() - begin
    after = _status()
    image = np.zeros((1, session.spec.in_chans, *session.spec.img_size), np.float32)
    for _ in range(3):
        session(image)
    last = _status()
    return {
        "open": opened * 1000,
        "before": before["VmRSS"],
        "anon": last["RssAnon"] - before["RssAnon"],
        "file": last["RssFile"] - before["RssFile"],
        "peak": last["VmHWM"] - before["VmRSS"],
        "run": last["VmHWM"] - after["VmHWM"],
    }


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        key: int(value.split()[0]) * 1024
        for key, _, value in (line.partition(":") for line in lines)
        if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile")
    }


if __name__ == "__main__":
    main()
