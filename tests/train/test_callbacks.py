"""Callbacks follow a run; the log goes to Weights & Biases where that is asked for."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from bhvit.errors import UserError
from bhvit.models import BHViT
from bhvit.train import Callback, RunInfo, train
from bhvit.train.run_folder import WANDB_ID


class Recorder(Callback):
    """Notes every call, and fails in the epoch `fails`."""

    def __init__(self, fails: int | None = None) -> None:
        self.calls: list[Any] = []
        self.fails = fails

    def on_train_begin(self, run: RunInfo) -> None:
        self.calls.append(("begin", run.epochs_done, (run.folder / "config.json").is_file()))

    def on_epoch_end(self, entry: Mapping[str, Any], model: BHViT) -> None:
        self.calls.append((dict(entry), {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        if entry["epoch"] == self.fails:
            raise RuntimeError("a callback's own error")

    def on_train_end(self) -> None:
        self.calls.append("end")


def test_callbacks_get_each_epoch_and_change_nothing(config: Any, tmp_path: Any) -> None:
    plain = train(config(epochs=2, out=str(tmp_path / "plain")), quiet=True)
    recorder = Recorder()
    followed = train(config(epochs=2, out=str(tmp_path / "followed")), quiet=True, callbacks=[recorder])
    assert followed.last.read_bytes() == plain.last.read_bytes()
    begin, *epochs, end = recorder.calls
    assert begin == ("begin", 0, True)
    assert end == "end"
    assert [entry for entry, _ in epochs] == list(followed.log)
    assert not torch.equal(epochs[0][1]["head.linear.weight"], epochs[1][1]["head.linear.weight"])


def test_a_callback_that_fails_ends_the_run_which_then_resumes(config: Any, tmp_path: Any) -> None:
    whole = train(config(epochs=3, out=str(tmp_path / "whole")), quiet=True)
    failing, other = Recorder(fails=2), Recorder()
    cut = config(epochs=3, out=str(tmp_path / "cut"))
    with pytest.raises(RuntimeError, match="a callback's own error"):
        train(cut, quiet=True, callbacks=[other, failing])
    assert other.calls[-1] == failing.calls[-1] == "end"
    again = Recorder()
    resumed = train(cut, resume=True, quiet=True, callbacks=[again])
    assert again.calls[0] == ("begin", 1, True)
    assert [call[0]["epoch"] for call in again.calls[1:-1]] == [2, 3]
    assert resumed.last.read_bytes() == whole.last.read_bytes()


class FakeRun:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.logged, self.finished = settings, [], False  # type: ignore[var-annotated]

    def log(self, values: Mapping[str, Any], step: int) -> None:
        assert all(isinstance(value, int | float) for value in values.values())
        self.logged.append((step, dict(values)))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Stands in for the package; the runs that were begun."""
    runs: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        runs.append(FakeRun(settings))
        return runs[-1]

    module: Any = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return runs


def test_the_log_goes_to_weights_and_biases(config: Any, tmp_path: Any, wandb: list[FakeRun], kill: Any) -> None:
    settings = config(epochs=2, wandb=True, out=str(tmp_path / "flowers"))
    kill(settings, "_step", 8)  # in the second epoch
    result = train(settings, resume=True, quiet=True)
    first, second = wandb
    assert first.settings["id"] == second.settings["id"]
    assert {run.settings["project"] for run in wandb} == {"bhvit"}
    assert {run.settings["name"] for run in wandb} == {"flowers"}
    assert second.settings["config"]["lr"] == settings.lr
    assert second.settings["settings"] == {"silent": True}
    assert [step for run in wandb for step, _ in run.logged] == [1, 2]
    assert second.logged[0][1]["val_top1"] == result.log[1]["val_top1"]
    layer = next(iter(result.log[1]["flipped"]))
    assert second.logged[0][1][f"flipped/{layer}"] == result.log[1]["flipped"][layer]
    assert first.finished
    assert second.finished
    train(settings, force=True, quiet=True)
    assert wandb[2].settings["id"] != first.settings["id"]


@pytest.mark.long
def test_weights_and_biases_keeps_a_run_offline(
    arguments: Any, start: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_PROJECT": "flowers", "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    process = start([*arguments(epochs=2, out=tmp_path / "run"), "--set", "wandb=true"])
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    text = kept.read_bytes()
    identity = (tmp_path / "run" / WANDB_ID).read_text().strip()
    assert identity in kept.name
    assert text.count(b"val_top1") >= 2  # each epoch's line
    assert b"flowers" in text


def test_weights_and_biases_that_is_absent_or_refuses_is_named(
    config: Any, monkeypatch: pytest.MonkeyPatch, wandb: list[FakeRun], tmp_path: Any
) -> None:
    def refuse(**settings: Any) -> None:
        raise ConnectionError("no API key configured\nuse wandb login")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(
        UserError, match=r"cannot log to Weights & Biases: no API key configured use wandb login; .*offline"
    ):
        train(config(wandb=True), quiet=True)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb, which is not installed.*\[wandb\]"):
        train(config(wandb=True, out=str(tmp_path / "other")), quiet=True)
    assert not (tmp_path / "other").exists()
