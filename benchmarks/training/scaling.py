"""Measure a training step's speed and memory as images and batches grow.

    python -m benchmarks.training.scaling --model bhvit_tiny --threads 2

Each row is a process of its own, whose peak is less what it held before its first step. Writes `scaling.md`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import markdown, write_results

SIZES = (64, 128, 224)
BATCHES = (4, 16)
STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bhvit_tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        _row(args.model, args.threads, *map(int, args.row.split("x")))
        return
    rows = []
    for size in SIZES:
        for batch in BATCHES:
            command = [
                sys.executable,
                "-m",
                "benchmarks.training.scaling",
                "--model",
                args.model,
                "--threads",
                str(args.threads),
                "--row",
                f"{size}x{batch}",
            ]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append(
                [
                    f"{size}×{size}",
                    batch,
                    f"{found['seconds']:.2f}",
                    f"{batch / found['seconds']:.1f}",
                    f"{found['mib']:.0f}",
                ]
            )
            print(rows[-1], file=sys.stderr, flush=True)
    threads = f"{args.threads} thread{'' if args.threads == 1 else 's'}"
    text = f"""`{args.model}`, 1000 classes, float32, {threads}: forward, backward, AdamW; medians of {STEPS} steps.

{markdown(["Images", "Batch", "s a step", "Images/s", "Peak MiB"], rows)}"""
    write_results(Path(__file__).with_name("scaling.md"), "What a training step costs", text)


def _row(model: str, threads: int, size: int, batch: int) -> None:
    import torch

    import bhvit

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = bhvit.create_model(model, img_size=size).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(STEPS + 1):
        begin = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": statistics.median(times[1:]), "mib": peak / 1024}))


if __name__ == "__main__":
    main()
