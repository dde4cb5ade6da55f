"""The benchmarks of training on a GPU run, on a CPU at toy size; and what a step launches is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ways_of_a_step_are_measured_and_profiled(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    ways = "plain", "fused", "graphs", "train"
    case = "--cases", "bhvit_nano:32:4"
    run("benchmarks.training.gpu", "--device", "cpu", *case, "--ways", *ways, "--seconds", "4", "--page", str(page))
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| bhvit_nano")]
    assert [row[3] for row in rows] == list(ways)
    assert all(float(row[4]) > 0 for row in rows), rows
    assert "matrix products" in page.read_text()


def test_a_run_of_some_seconds_goes_on_from_small_files(images: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    settings = {"img_size": 8, "patch": 2, "batch_size": 8, "epochs": 100000, "device": "cpu", "threads": 1}
    options = [f"--set={name}={value}" for name, value in settings.items()]
    arguments = "--data", str(images), "--out", str(kept), *options
    first = json.loads(run("benchmarks.accuracy.gpu_run", *arguments, "--seconds", "12"))
    assert not first["finished"]
    assert first["epochs"] > 0
    assert {"config.json", "log.jsonl", "last.safetensors", "resume.part0"} <= {path.name for path in kept.iterdir()}
    assert all(path.stat().st_size < 16 * 2**20 for path in kept.iterdir())
    second = json.loads(run("benchmarks.accuracy.gpu_run", *arguments, "--seconds", "12"))
    assert second["epochs"] > first["epochs"]


@pytest.mark.parametrize(("mixer", "most"), [("conv", 110), ("attention", 190), ("pooled_attention", 190)])
def test_a_block_launches_few_kernels_and_keeps_little(mixer: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.training.launches import count, initialised

    from bhvit.spec.model import StageSpec

    def model(depth: int) -> torch.nn.Module:
        pooled = {"key_pool": 2} if mixer == "pooled_attention" else {}
        stage = StageSpec(depth=depth, channels=64, hidden=256, mixer=mixer, heads=2, **pooled)  # type: ignore[arg-type]
        return initialised("bhvit_nano", img_size=16, stages=(stage,))

    images = torch.randn(4, 3, 16, 16)
    found = {
        way: [count(model(depth), images, triton=way == "fused") for depth in (1, 2)] for way in ("plain", "fused")
    }
    block = {way: {key: two[key] - one[key] for key in one} for way, (one, two) in found.items()}
    assert block["fused"]["launches"] <= most, block
    assert block["fused"]["launches"] < 0.6 * block["plain"]["launches"], block
    assert block["fused"]["kept"] < 0.6 * block["plain"]["kept"], block
