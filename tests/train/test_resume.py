"""Interruption at any moment: the newest complete checkpoint stays, and resuming changes nothing."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import safetensors.torch
import torch

import bhvit.train.loop as loop
from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.models import load_checkpoint, save_checkpoint
from bhvit.train import TrainConfig, train
from helpers.runs import assert_same


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    """The folder of a run of 4 epochs that nothing disturbed, and its settings."""
    out = tmp_path_factory.mktemp("whole") / "run"
    settings = {
        "data": str(images),
        "model": "small",
        "epochs": 4,
        "batch_size": 8,
        "img_size": 8,
        "patch": 2,
        "drop_path": 0.1,
        "threads": 1,
        "device": "cpu",
        "warmup_epochs": 1,
    }
    train(TrainConfig.from_dict({**settings, "out": str(out)}), quiet=True)
    return out, settings


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("_step", 3),
        ("append_log", 2),
        ("save_checkpoint", 4),
        ("save", 7),
        *(pytest.param(*place, marks=pytest.mark.long) for place in (("_step", 12), ("_step", 14), ("save", 9))),
    ],
)
def test_resuming_gives_the_same_bits(uninterrupted, tmp_path, kill, where, call):
    whole, settings = uninterrupted
    # A checkpoint every step, so that most interruptions lie within an epoch.
    config = TrainConfig.from_dict({**settings, "out": str(tmp_path / "run"), "save_minutes": 1e-9})
    kill(config, where, call)
    train(config, resume=True, quiet=True)
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_a_checkpoint_that_is_gone_is_said(uninterrupted, tmp_path, name):
    whole, settings = uninterrupted
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    config = TrainConfig.from_dict({**settings, "out": str(tmp_path / "run")})
    with pytest.raises(UserError, match=f"{name} of its earlier epochs is missing"):
        train(config, resume=True, quiet=True)


def test_another_teacher_under_the_same_name_is_refused(uninterrupted, tmp_path, kill):
    whole, settings = uninterrupted
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(whole / "best.safetensors", teacher)
    values = {**settings, "out": str(tmp_path / "run"), "teacher": str(teacher), "save_minutes": 1e-9}
    config = TrainConfig.from_dict(values)
    kill(config, "_step", 3)
    model = load_checkpoint(teacher)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    save_checkpoint(model, teacher)
    with pytest.raises(UserError, match=r"its teacher .*teacher.safetensors is another file now"):
        train(config, resume=True, quiet=True)
    shutil.copy(whole / "best.safetensors", teacher)
    train(config, resume=True, quiet=True)


@pytest.mark.long
def test_killed_by_signal_9_in_mid_epoch(uninterrupted, arguments, start, tmp_path):
    whole, settings = uninterrupted
    out = tmp_path / "killed"
    command = arguments(**settings, out=out, save_minutes=1e-9)
    for resume, until in (([], ["save"]), (["--resume"], ["save", "_step", "save", "_step"])):
        process = start([*command, *resume], until)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        if (out / "last.safetensors").exists():
            load_checkpoint(out / "last.safetensors")
    assert main([*command, "--resume"]) == 0
    assert_same(whole, out)


def test_ctrl_c_ends_with_status_130_and_one_line(arguments, start, tmp_path):
    out = tmp_path / "stopped"
    process = start(arguments(out=out, epochs=1000), until=["save"])
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(error.strip().splitlines()) == 1
    assert "--resume" in error
    load_checkpoint(out / "last.safetensors")


def test_ctrl_c_is_not_lost_where_python_loses_it(config, monkeypatch):
    real = loop._Run._step

    class Finaliser:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def step(*arguments):
        Finaliser()  # an exception raised in here would be printed and dropped
        return real(*arguments)

    monkeypatch.setattr(loop._Run, "_step", step)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config(), quiet=True)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_resumes_to_itself(uninterrupted, tmp_path):
    whole, settings = uninterrupted
    shutil.copytree(whole, tmp_path / "copy")
    result = train(TrainConfig.from_dict({**settings, "out": str(tmp_path / "copy")}), resume=True, quiet=True)
    assert len(result.log) == 4
    assert_same(whole, tmp_path / "copy")


def test_the_command_line_takes_the_settings_from_the_run(uninterrupted, tmp_path, capsys):
    shutil.copytree(uninterrupted[0], tmp_path / "copy")
    settings = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**settings, "out": str(tmp_path / "copy")}))
    assert main(["train", "--out", str(tmp_path / "copy"), "--resume", "--quiet"]) == 0
    assert main(["train", "--out", str(tmp_path / "copy"), "--resume", "--lr", "0.5", "--img-size", "16"]) == 2
    error = capsys.readouterr().err
    assert "lr 0.001 (now 0.5)" in error
    assert "img_size [8, 8] (now [16, 16])" in error
    assert main(["train", "--out", str(tmp_path / "copy"), "--resume", "--force"]) == 2


def test_damaged_runs_are_refused(uninterrupted, tmp_path):
    whole, settings = uninterrupted
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    config = TrainConfig.from_dict({**settings, "out": str(out)})
    data = (out / "resume.safetensors").read_bytes()
    for damage in (data[:1000], b"", data[: len(data) // 2]):
        (out / "resume.safetensors").write_bytes(damage)
        with pytest.raises(UserError, match=r"resume\.safetensors"):
            train(config, resume=True, quiet=True)
    tensors = safetensors.torch.load(data)
    with safetensors.safe_open(whole / "resume.safetensors", framework="pt") as file:
        metadata = file.metadata()
    for tensor, numbers in (("optimizer.group.99:step", "{}"), ("optimizer.x", "[]"), ("optimizer.x", '{"groups": 3}')):
        damaged = safetensors.torch.save(tensors | {tensor: torch.zeros(1)}, metadata | {"optimizer": numbers})
        (out / "resume.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot resume from .*resume\.safetensors"):
            train(config, resume=True, quiet=True)
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        train(config, resume=True, quiet=True)
    with pytest.raises(UserError, match="no run to resume"):
        train(TrainConfig.from_dict({**settings, "out": str(tmp_path / "absent")}), resume=True, quiet=True)
