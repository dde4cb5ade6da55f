"""Several processes on one machine: started, ended by a signal, and refused in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bhvit.cli import launch
from bhvit.cli.main import main

Arguments = Callable[..., list[str]]
Start = Callable[..., "subprocess.Popen[str]"]

LAUNCHER = (
    "import sys; from bhvit.cli.launch import launch; sys.exit(launch(2, sys.argv[2:], [sys.executable, sys.argv[1]]))"
)


@pytest.fixture
def file(program: str, tmp_path: Path) -> Path:
    """The command line with the small model, as a file."""
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    return path


@pytest.mark.long
def test_processes_are_started_and_train_together(file: Path, arguments: Arguments, tmp_path: Path) -> None:
    words = arguments(epochs=1, batch_size=8, out=tmp_path / "two")
    result = subprocess.run(
        [sys.executable, "-c", LAUNCHER, file, *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("validation accuracy on 16 images") == 1
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "name", [pytest.param("SIGTERM", marks=pytest.mark.long), pytest.param("SIGINT", marks=pytest.mark.slow)]
)
def test_a_signal_ends_all_processes_and_the_run_resumes(
    name: str, file: Path, arguments: Arguments, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "two"
    restored = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {LAUNCHER}"
    process = start(
        arguments(epochs=10_000, out=out), until=["save"], command=[sys.executable, "-c", restored, str(file)]
    )
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name)
    assert "Traceback" not in said
    assert "--resume` continues from the newest checkpoint" in said
    assert (out / "resume.safetensors").exists()


def test_an_indivisible_batch_is_refused_before_a_process_is_started(
    arguments: Arguments, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert main([*arguments(batch_size=9, out=tmp_path / "two"), "--processes", "2"]) == 2
    assert capsys.readouterr().err == "bhvit: batch_size 9 does not divide into 2 processes: give 8\n"
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "digits", "--out", "absent", f"--processes={text}"]) == 2
    assert "--processes" in capsys.readouterr().err


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(
        "import os, sys, threading\nif os.environ['RANK'] == '1':\n    sys.exit(7)\nthreading.Event().wait(300)\n",
        encoding="utf-8",
    )
    begin = time.monotonic()
    assert launch.launch(2, [], [sys.executable, str(failing)]) == 7
    assert time.monotonic() - begin < 60


def test_a_process_that_crashes_ends_the_others_at_once(tmp_path: Path) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text(
        "import os, signal, threading\nif os.environ['RANK'] == '1':\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Event().wait(300)\n",
        encoding="utf-8",
    )
    begin = time.monotonic()
    assert launch.launch(2, [], [sys.executable, str(crashing)]) == 128 + signal.SIGKILL
    assert time.monotonic() - begin < launch.SECONDS_TO_END / 2


@pytest.mark.slow
def test_torchrun_says_in_its_summary_what_is_wrong(arguments: Arguments, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["-m", "bhvit", *arguments(batch_size=9, out=tmp_path / "two")]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    line = "batch_size 9 does not divide into 2 processes: give 8"
    own, _, summary = result.stderr.partition("Traceback")
    assert result.returncode != 0
    assert 1 <= own.count(f"bhvit: {line}\n") <= 2  # the second one speaks only where torchrun takes long to end it
    assert summary.count("Traceback") == 0  # the one is that of torchrun, which ends so whenever a process fails
    assert "ChildFailedError" in summary
    assert f"traceback : {line}" in summary
    assert "exitcode  : 2" in summary
    assert not (tmp_path / "two").exists()


def test_a_failure_is_reported_to_torchrun_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    launch.report_failure("left over in the environment")
    assert not file.exists()
    settings: dict[str, Any] = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    launch.report_failure("a line")
    assert json.loads(file.read_text(encoding="utf-8"))["message"]["message"] == "a line"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path))
    launch.report_failure("nowhere to write")
