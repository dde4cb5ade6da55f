"""The benchmarks of training on a GPU run, on a CPU at toy size; and what a step launches is bounded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bhvit.train import loop

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


@pytest.mark.long
def test_ways_of_a_step_are_measured_and_profiled(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    ways = "fused", "graphs", "train"
    case = "--cases", "bhvit_nano:32:4"
    run("benchmarks.training.gpu", "--device", "cpu", *case, "--ways", *ways, "--seconds", "4", "--page", str(page))
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| bhvit_nano")]
    assert [row[3] for row in rows] == list(ways)
    assert all(float(row[4]) > 0 for row in rows), rows
    assert "matrix products" in page.read_text()


def test_what_was_measured_is_there_if_a_run_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.training import gpu

    def measure(make: Any, device: Any, seconds: float) -> dict[str, Any]:
        if measured:
            raise KeyboardInterrupt
        measured.append(seconds)
        return {"failed": "the step cannot be captured"}

    measured: list[float] = []
    page = tmp_path / "gpu.md"
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/training/gpu.py"), "--device", "cpu", "--page", str(page)])
    with pytest.raises(KeyboardInterrupt):
        gpu.main()
    assert "the step cannot be captured" in page.read_text()


def test_a_step_that_cannot_be_captured_is_no_measurement_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.training import gpu

    def refuse(compute: Any, device: Any) -> Any:
        raise RuntimeError("not permitted | in a capture")

    monkeypatch.setattr(gpu, "capture_on", lambda device: refuse)
    device = torch.device("cpu")
    found = gpu.measure(lambda: gpu.Batch("bhvit_nano", 32, 2, "graphs", device, None), device, 0)
    assert found["failed"].endswith("training runs without: not permitted / in a capture")


@pytest.mark.slow
def test_the_session_on_a_gpu_runs_from_a_source_tree_on_a_cpu(tmp_path: Path) -> None:
    environment = {**os.environ, "DEVICE": "cpu", "TOY": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    for what in (("steps", str(tmp_path / "steps")), ("run", str(tmp_path / "run"), "digits")):
        command = ["sh", "benchmarks/gpu_session.sh", *what]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1900)
        assert done.returncode == 0, done.stderr
        assert "ended with status" not in done.stdout, done.stdout
    check = (tmp_path / "steps" / "check.log").read_text()
    assert all(f"\n{name} (" in f"\n{check}" for name in ("kernels", "layers", "graphs", "resume")), check
    assert {"config.json", "resume.safetensors.part000"} <= {
        path.name for path in (tmp_path / "run" / "kept").iterdir()
    }


def test_a_run_of_some_seconds_goes_on_from_small_files(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.accuracy import gpu_run

    kept, real, calls = tmp_path / "kept", loop._Run._step, []

    def step(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) % 12 == 0:  # as if the time were over
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    def run() -> dict[str, Any]:
        settings = {"img_size": 8, "patch": 2, "batch_size": 8, "epochs": 100, "device": "cpu", "threads": 1}
        options = [f"--set={name}={value}" for name, value in settings.items()]
        given = ["--data", str(images), "--model", "small", "--out", str(kept), "--seconds", "3600", *options]
        monkeypatch.setattr(sys, "argv", ["gpu_run", *given])
        gpu_run.main()
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary

    monkeypatch.setattr(loop._Run, "_step", step)
    monkeypatch.setattr(gpu_run, "LIMIT", 100_000)
    monkeypatch.setattr(gpu_run, "KEEP_SECONDS", 0.0)
    keep, kept_while_training = gpu_run.keep, []

    def watched(run: Path, kept: Path) -> None:
        kept_while_training.append(len(calls))
        keep(run, kept)

    monkeypatch.setattr(gpu_run, "keep", watched)
    first = run()
    assert kept_while_training == [10, 12]  # what the first epoch left, then at the end
    assert not first["finished"]
    assert first["epochs"] == 2  # of five steps each, and two of the next
    assert {"config.json", "log.jsonl", *(f"resume.safetensors.part00{n}" for n in range(2))} <= {
        p.name for p in kept.iterdir()
    }
    assert all(path.stat().st_size <= gpu_run.LIMIT for path in kept.iterdir())
    assert run()["epochs"] == 4


@pytest.mark.parametrize(("mixer", "most"), [("conv", 140), ("attention", 250), ("pooled_attention", 230)])
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
    assert block["fused"]["launches"] < 0.4 * block["plain"]["launches"], block
    assert block["fused"]["kept"] < 0.35 * block["plain"]["kept"], block
