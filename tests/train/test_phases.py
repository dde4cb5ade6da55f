"""Phases follow each other by themselves, start from the models they should, and survive being killed."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import torch

import bhvit.train.loader as loader
import bhvit.train.loop as loop
from bhvit.cli.main import main
from bhvit.data.metrics import decode
from bhvit.errors import UserError
from bhvit.models import create_model, load_checkpoint, save_checkpoint
from bhvit.train import TrainConfig, load_recipe, train
from bhvit.train.recipe_files import merged
from bhvit.train.validation import validate
from bhvit.train.warm_start import start_from
from helpers.runs import assert_same

STAGED = {
    "phases.0.epochs": 2,
    "phases.0.weight_bits": 32,
    "phases.0.lr": 2e-3,
    "phases.1.epochs": 2,
    "phases.1.accumulate": 2,
    "phases.1.mixup": 0.2,
    "ema": 0.9,
    "ema_batches": 2,
    "drop_path": 0.1,
}


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    settings = {
        **STAGED,
        "data": str(images),
        "model": "small",
        "batch_size": 8,
        "img_size": 8,
        "patch": 2,
        "threads": 1,
        "device": "cpu",
    }
    result = train(TrainConfig.from_dict({**settings, "out": str(out)}), quiet=True)
    return out, settings, result


def test_phases_follow_each_other(uninterrupted):
    out, _, result = uninterrupted
    assert [(entry["epoch"], entry["phase"]) for entry in result.log] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    first, last = load_checkpoint(out / "phase0.safetensors"), load_checkpoint(result.last)
    assert {stage.weight_bits for stage in first.spec.stages} == {32}
    assert {stage.weight_bits for stage in last.spec.stages} == {1}
    written = json.loads((out / "config.json").read_text())
    assert written["phases.0.weight_bits"] == 32
    assert TrainConfig.from_dict(written).phase_configs()[1].accumulate == 2


def test_images_are_decoded_once_for_all_phases(config, monkeypatch):
    decoded = []
    real = decode
    monkeypatch.setattr(loader, "decode", lambda dataset, *rest: decoded.append(len(dataset)) or real(dataset, *rest))
    train(config(**{"phases.0.epochs": 1, "phases.1.epochs": 1}), quiet=True)
    assert len(decoded) == 2  # the training images and the validation images


def test_a_phase_starts_from_the_best_or_the_last_model_of_the_one_before(config, tmp_path, monkeypatch):
    for start in ("best", "last"):
        monkeypatch.setattr(loop, "validate", _falling(validate))
        phases = {"phases.0.epochs": 2, "phases.1.epochs": 1, "phases.1.start": start, "epochs": 1}
        train(config(**phases, out=str(tmp_path / start)), quiet=True)
        monkeypatch.undo()
    train(config(epochs=1, out=str(tmp_path / "one"), lr=1e-3), quiet=True)
    best, last = (load_checkpoint(tmp_path / start / "phase0.safetensors").state_dict() for start in ("best", "last"))
    assert not torch.equal(best["stem.conv.weight"], last["stem.conv.weight"])


def _falling(real):
    """Validation whose accuracy falls, so that the best epoch is the first."""
    calls = []

    def validate(*arguments):
        calls.append(1)
        metrics = real(*arguments)
        metrics.labels[:] = metrics.predictions if len(calls) == 1 else 1 - metrics.predictions
        return metrics

    return validate


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("save", 11),
        *(pytest.param(*at, marks=pytest.mark.long) for at in (("_step", 4), ("keep", 1), ("save_checkpoint", 4))),
    ],
)
def test_killed_anywhere_and_resumed_gives_the_same_bits(uninterrupted, tmp_path, kill, where, call):
    whole, settings, _ = uninterrupted
    config = TrainConfig.from_dict({**settings, "out": str(tmp_path / "run"), "save_minutes": 1e-9})
    kill(config, where, call)
    train(config, resume=True, quiet=True)
    assert_same(whole, tmp_path / "run")


@pytest.mark.long
def test_killed_by_signal_9_in_the_second_phase(uninterrupted, arguments, start, tmp_path):
    whole, settings, _ = uninterrupted
    command = arguments(**settings, epochs=1, out=tmp_path / "killed", save_minutes=1e-9)
    process = start(command, until=["keep", "save", "_step", "_step"])
    assert (tmp_path / "killed" / "phase0.safetensors").exists()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert main([*command, "--resume"]) == 0
    assert_same(whole, tmp_path / "killed")


def test_a_run_killed_before_its_first_checkpoint_starts_from_init_again(config, tmp_path, kill):
    start = train(config(epochs=1, out=str(tmp_path / "start")), quiet=True).last
    settings = config(epochs=1, init=str(start))
    whole = train(config(epochs=1, init=str(start), out=str(tmp_path / "whole")), quiet=True)
    kill(settings, "_step", 1)
    train(settings, resume=True, quiet=True)
    assert_same(whole.last.parent, tmp_path / "run")


def test_a_resumed_run_keeps_its_phases(uninterrupted, tmp_path):
    whole, settings, _ = uninterrupted
    changed = {**settings, "phases.1.lr": 0.5, "out": str(whole)}
    with pytest.raises(UserError, match=r"phases\.1\.lr None \(now 0\.5\)"):
        train(TrainConfig.from_dict(changed), resume=True, quiet=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases.0.rl": 1}, "did you mean lr"),
        ({"phases.lr": 1}, r"phases\.0\.lr"),
        ({"phases.0.lr": "fast"}, "a number"),
        ({"phases.0.lr": -1.0}, r"phases\.0: lr must be above 0"),
        ({"phases.1.img_size": 16}, "setting of the whole run"),
        ({"phases.1.init": "x.safetensors"}, "setting of the whole run"),
        ({"phases": 3}, "no setting 'phases'"),
        ({"phases": [3]}, "tables of settings"),
    ],
)
def test_wrong_phases_are_refused(settings, values, message):
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**settings, **values})


def test_what_is_given_wins_over_a_recipes_phases():
    recipe = load_recipe("imagenet")
    values = merged(recipe, {"epochs": 3, "phases.1.lr": 1e-5})
    configs = TrainConfig.from_dict({**values, "data": "x", "out": "y"}).phase_configs()
    assert [config.epochs for config in configs] == [3, 3]
    assert [config.lr for config in configs] == [2.5e-4, 1e-5]
    staged = merged(load_recipe("staged"), {"epochs": 1})
    assert staged["phases.0.warmup_epochs"] == 0.5


def test_the_published_recipe_has_the_published_numbers():
    first, second = TrainConfig.from_dict({**load_recipe("imagenet"), "data": "x", "out": "y"}).phase_configs()
    for config in (first, second):
        assert config.lr == 5e-4 * config.batch_size / 512
        assert (config.batch_size, config.epochs, config.weight_decay, config.warmup_epochs) == (256, 100, 0, 0)
        assert (config.mixing, config.erase, config.rand_augment, config.label_smoothing) == (False, 0, 0, 0)
        assert (config.teacher, config.augment, config.flip) == ("deit_small_patch16_224", "resized-crop", True)
    assert (first.distillation, first.regularisation) == (1.0, 0.0)
    assert (second.distillation, second.label_weight, second.regularisation) == (0.9, 0.0, 0.1)
    assert second.start == "best"


def test_what_a_run_says_of_its_teacher_is_nothing_to_a_phase_without_one(tmp_path):
    given = {"data": "digits", "model": "bhvit_nano", "out": "x", "label_weight": 0.2, "teacher_outputs": str(tmp_path)}
    given |= {"phases.0.epochs": 1, "phases.1.epochs": 1, "phases.1.teacher": "resnet18"}
    first, second = TrainConfig.from_dict(given).phase_configs()
    assert (first.teacher, first.label_weight, first.teacher_outputs) == (None, None, None)
    assert (second.teacher, second.label_weight, second.teacher_outputs) == ("resnet18", 0.2, str(tmp_path))
    with pytest.raises(UserError, match=r"phases.0: label_weight has no effect without a teacher"):
        TrainConfig.from_dict(given | {"phases.0.label_weight": 0.1})


def test_starting_from_other_classes_another_size_and_other_bits(capsys):
    torch.manual_seed(0)
    start = create_model("small", num_classes=3, img_size=8, patch=2, weight_bits=32, activation_bits=32)
    model: Any = create_model("small", num_classes=2, img_size=16, patch=2)
    drawn = model.head.linear.weight.detach().clone()
    notes = start_from(model, start, "three")
    assert notes[0] == "new classifier: three has 3 classes, the data 2"
    assert notes[1] == "position maps are interpolated: the first has 4x4 tokens in three, here 8x8"
    assert "stage 0 goes from weight_bits 32 to 1" in notes
    assert torch.equal(model.head.linear.weight, drawn)
    assert torch.equal(model.stem.conv.weight, start.stem.conv.weight)
    torch.testing.assert_close(model.stem.position.mean(), start.stem.position.mean(), atol=5e-3, rtol=0)
    assert model.stages[1][0].mixer.attention.quantizer.initialised == 0
    named: Any
    same: Any
    named, same = (
        create_model("small", num_classes=2, img_size=8, patch=2),
        create_model("small", num_classes=2, img_size=8, patch=2),
    )
    named.class_names, same.class_names = ("a", "b"), ("a", "b")
    assert start_from(same, named, "named") == []
    assert torch.equal(same.head.linear.weight, named.head.linear.weight)
    same.class_names = ("a", "c")
    assert "the data 2 others" in start_from(same, named, "named")[0]


def test_starting_with_another_stride_of_the_stem():
    start = create_model("small", num_classes=2, img_size=16, patch=4)
    model = create_model("small", num_classes=2, img_size=16, patch=2, stem_kernel=4)
    notes = start_from(model, start, "four")
    assert notes[1:] == ["the stem's convolution takes steps of 2 pixels, not 4"]
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        # The patches of a step of 4 pixels are among those of steps of 2, which begin a pixel outside the image.
        inside = model.stem.conv(torch.nn.functional.pad(images, (1, 0, 1, 0))[:, :, :16, :16])[:, :, 1::2, 1::2]
        torch.testing.assert_close(inside[:, :, 0, 0], start.stem.conv(images)[:, :, 0, 0])
    with pytest.raises(UserError, match=r"another stem_kernel 4 \(now 2\)"):
        start_from(create_model("small", num_classes=2, img_size=16, patch=2), start, "four")


def test_finetuning_takes_the_model_from_the_checkpoint(settings, tmp_path, capsys):
    torch.manual_seed(0)
    changed: dict[str, Any] = {"norm": "layer", "stages": {1: {"mixer": "pooling"}}}
    save_checkpoint(
        create_model("small", num_classes=5, img_size=8, patch=2, in_chans=1, stem_kernel=4, **changed),
        tmp_path / "five.safetensors",
    )
    out = str(tmp_path / "tuned")
    command = ["train", "--recipe", "finetune", "--data", settings["data"], "--out", out, "--workers", "0"]
    assert main([*command, "--init", str(tmp_path / "five.safetensors"), "--epochs", "1", "--batch-size", "8"]) == 0
    error = capsys.readouterr().err
    assert "new classifier" in error
    spec = load_checkpoint(tmp_path / "tuned" / "last.safetensors").spec
    assert (spec.name, spec.num_classes, spec.img_size, spec.in_chans, spec.patch) == ("small", 2, (8, 8), 1, 2)
    assert (spec.stem_kernel, spec.norm, spec.stages[1].mixer) == (4, "layer", "pooling")
