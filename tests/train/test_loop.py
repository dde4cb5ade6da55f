"""Runs: what they leave, that they learn, what they refuse, and how they end badly."""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bhvit.train.losses as losses
import bhvit.train.step as step
import bhvit.train.teacher_outputs as outputs_module
from bhvit.cli.main import main
from bhvit.data import open_dataset
from bhvit.data.metrics import Metrics, decode
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.models import create_model, load_checkpoint, save_checkpoint
from bhvit.train import train
from bhvit.train.config import TrainConfig
from bhvit.train.optim import learning_rate
from bhvit.train.run_folder import FILES, LOCK


def refused(config, **options):
    with pytest.raises(UserError) as caught:
        train(config, quiet=True, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_learns_and_leaves_its_files(config, tmp_path):
    result = train(config(epochs=6, lr=5e-3), quiet=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([LOCK, *FILES])
    assert [entry["epoch"] for entry in result.log] == [1, 2, 3, 4, 5, 6]
    assert result.log[-1]["train_loss"] < result.log[0]["train_loss"]
    assert isinstance(result.metrics, Metrics)
    assert result.metrics.top1 > 0.8
    model = load_checkpoint(result.last)
    assert model.class_names == ("above", "below")
    assert model.preprocess is not None
    assert model.preprocess.size == (8, 8)
    assert load_checkpoint(result.best).spec == model.spec
    assert TrainConfig.from_dict(json.loads((tmp_path / "run" / "config.json").read_text())).epochs == 6


def test_progress_is_printed_a_line_an_epoch(config, capsys):
    train(config(epochs=1))
    error = capsys.readouterr().err
    assert "epoch 1/1" in error
    assert "images/s" in error


def test_other_losses_and_options(config, tmp_path, images):
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    changes = {"teacher": str(teacher), "init": str(teacher), "regularisation": 0.1, "clip_grad": 1.0}
    result = train(config(epochs=1, label_smoothing=0.1, weight_decay=0.05, **changes), quiet=True)
    assert math.isfinite(result.log[0]["train_loss"])
    grey = config(epochs=1, channels=1, augment="resized-crop", workers=0, precision="bfloat16")
    assert load_checkpoint(train(grey, quiet=True, force=True).last).spec.in_chans == 1


def test_kept_outputs_of_a_teacher_are_those_that_it_gives(config, tmp_path, monkeypatch):
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    still = {"epochs": 1, "augment": "none", "flip": False, "teacher": str(teacher)}
    asked = train(config(**still, out=str(tmp_path / "asked")), quiet=True)
    kept = {**still, "teacher_outputs": str(tmp_path / "outputs")}
    first = train(config(**kept, out=str(tmp_path / "first")), quiet=True)
    (file,) = (tmp_path / "outputs").iterdir()
    assert first.log[0]["train_loss"] == pytest.approx(asked.log[0]["train_loss"], rel=1e-3)  # float16
    monkeypatch.setattr("bhvit.train.teacher_outputs._make", lambda *args: pytest.fail("computed again"))
    monkeypatch.setattr("bhvit.train.teacher.Teacher.forward", lambda *args: pytest.fail("the teacher was asked"))
    second = train(config(**kept, out=str(tmp_path / "second")), quiet=True)
    assert second.log[0]["train_loss"] == first.log[0]["train_loss"]
    monkeypatch.undo()
    # Other images are another file.
    train(config(**kept, crop=0.5, out=str(tmp_path / "third")), quiet=True)
    assert len(list((tmp_path / "outputs").iterdir())) == 2
    assert file.exists()


def test_the_runs_folder_is_no_class(config, tmp_path, images):
    data = tmp_path / "photos"
    shutil.copytree(images / "train", data)
    (tmp_path / "link").symlink_to(data)
    before = sorted(data.rglob("*"))
    for out in (data / "run", data / "deep" / "run", data, tmp_path / "link" / "run"):
        with pytest.raises(UserError, match="would be a class of the next run"):
            train(config(epochs=1, data=str(data), out=str(out)), quiet=True)
    assert sorted(data.rglob("*")) == before
    # Next to folders of splits it is none.
    shutil.copytree(images / "train", tmp_path / "split" / "train")
    with pytest.raises(UserError, match="would be a class of the next run"):
        train(config(epochs=1, data=str(tmp_path / "split"), out=str(tmp_path / "split/train/run")), quiet=True)
    train(config(epochs=1, data=str(tmp_path / "split"), out=str(tmp_path / "split/run")), quiet=True)
    assert (tmp_path / "split/run/best.safetensors").is_file()


def test_outputs_kept_for_images_that_were_replaced_are_not_used(config, tmp_path, images):
    data = tmp_path / "photos"
    shutil.copytree(images, data)
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    kept = {
        "epochs": 1,
        "augment": "none",
        "flip": False,
        "teacher": str(teacher),
        "teacher_outputs": str(tmp_path / "outputs"),
        "data": str(data),
    }
    train(config(**kept, out=str(tmp_path / "first")), quiet=True)
    (one, *_) = sorted(path for path in data.rglob("*.png"))
    Image.new("RGB", (9, 9), "red").save(one)  # another picture of the same name and class
    train(config(**kept, out=str(tmp_path / "second")), quiet=True)
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def test_two_runs_may_make_the_same_outputs_at_once(config, tmp_path, monkeypatch):
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    kept = {"epochs": 1, "augment": "none", "teacher": str(teacher), "teacher_outputs": str(tmp_path / "outputs")}
    make = outputs_module._make
    written: list[Any] = []

    def twice(path, *arguments):
        """Another run gets here while this one is writing."""
        make(path, *arguments)
        before = path.read_bytes()
        if not written:
            written.append(path)
            train(config(**kept, out=str(tmp_path / "other")), quiet=True)
        written.append(path)
        assert path.read_bytes() == before

    monkeypatch.setattr(outputs_module, "_make", twice)
    train(config(**kept, out=str(tmp_path / "run")), quiet=True)
    assert len(set(written)) == 2
    assert [path.suffix for path in (tmp_path / "outputs").iterdir()] == [".npy"]


def test_a_teacher_whose_outputs_cannot_be_kept_is_refused(config, tmp_path):
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    (tmp_path / "file").write_text("")
    kept = config(epochs=1, augment="none", teacher=str(teacher), teacher_outputs=str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write the teacher's outputs"):
        train(kept, quiet=True)
    kept = config(epochs=1, augment="none", teacher=str(teacher), teacher_outputs=str(tmp_path / "outputs"))
    model = load_checkpoint(teacher)
    with torch.no_grad():
        model.get_parameter("head.linear.bias").add_(1e5)
    save_checkpoint(model, teacher)
    with pytest.raises(UserError, match="too large for float16"):
        train(kept, quiet=True)
    assert not list((tmp_path / "outputs").iterdir())


def test_outputs_from_a_file_teach_as_the_network_does(config, tmp_path, images):
    teacher = train(config(epochs=1, out=str(tmp_path / "teacher")), quiet=True).last
    still = {"epochs": 1, "augment": "none", "flip": False}
    asked = train(config(**still, teacher=str(teacher), out=str(tmp_path / "asked")), quiet=True)
    model = load_checkpoint(teacher)
    dataset = open_dataset(str(images), "train")
    assert model.preprocess is not None
    pixels = decode(dataset, model.preprocess, range(len(dataset)))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(model.preprocess.normalize(pixels))).numpy()
    file = tmp_path / "outputs.npz"
    views = np.stack([logits + 1, logits - 1], axis=1)
    for written in (logits, views):
        np.savez(file, logits=written, labels=dataset.labels)
        read = train(config(**still, teacher=str(file), out=str(tmp_path / "read")), quiet=True, force=True)
        assert read.log[0]["train_loss"] == pytest.approx(asked.log[0]["train_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": np.zeros((40, 2), np.float32)}, "lack an array .*labels"),
        ({"logits": np.zeros((40, 2), np.int64), "labels": np.zeros(40)}, "need floats"),
        ({"logits": np.zeros(40), "labels": np.zeros(40)}, "need floats"),
        ({"logits": np.zeros((40, 3)), "labels": np.zeros(40)}, "3 classes, the data has 2"),
        ({"logits": np.zeros((40, 2)), "labels": np.zeros(40)}, "other images"),
        ({"logits": np.zeros((10, 2)), "labels": np.zeros(10)}, "other images"),
        ({"logits": np.full((40, 2), np.nan), "labels": None}, "not finite"),
        ({"logits": np.array([[None]]), "labels": np.zeros(1)}, "cannot read"),
    ],
)
def test_files_of_outputs_that_cannot_teach_are_refused(config, tmp_path, images, arrays, message):
    if "labels" in arrays and arrays["labels"] is None:
        arrays = {**arrays, "labels": open_dataset(str(images), "train").labels}
    np.savez(tmp_path / "outputs.npz", **arrays)
    with pytest.raises(UserError, match=message):
        train(config(epochs=1, teacher=str(tmp_path / "outputs.npz")), quiet=True)


def test_other_files_of_outputs_are_refused(config, tmp_path):
    file = tmp_path / "outputs.npz"
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        train(config(epochs=1, teacher=str(file)), quiet=True)
    file.write_bytes(b"logits")
    with pytest.raises(UserError, match=r"cannot read .*: not a file of numpy.savez"):
        train(config(epochs=1, teacher=str(file)), quiet=True)
    np.savez_compressed(file, logits=np.zeros((40, 1000, 2)), labels=np.zeros(40))
    with pytest.raises(UserError, match=r"unpack to 640\d\d\d bytes, more than \d+ training images need"):
        train(config(epochs=1, teacher=str(file)), quiet=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 2)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", header.getvalue())
    with pytest.raises(UserError, match=r"cannot read .*: not a file of numpy.savez"):
        train(config(epochs=1, teacher=str(file)), quiet=True)
    np.save(tmp_path / "array.npy", np.zeros((40, 2)))
    (tmp_path / "array.npy").rename(file)
    with pytest.raises(UserError, match=r"cannot read .*: not a file of numpy.savez"):
        train(config(epochs=1, teacher=str(file)), quiet=True)
    with pytest.raises(UserError, match="of images as they are, which mixup changes"):
        config(teacher=str(file), mixup=0.5)


def test_timm_teachers_are_fed_in_their_own_size_and_scale(config):
    timm = pytest.importorskip("timm")
    from bhvit.train.teacher import Teacher

    student = Preprocess(size=(8, 8), crop=1.0)
    own = Preprocess(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean(dim=(2, 3))

    grey = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8).numpy()
    Teacher(Spy(), student, own)(torch.from_numpy(student.normalize(grey)))
    expected = torch.from_numpy(own.normalize(grey)).mean(dim=(2, 3))
    assert seen[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(seen[0].mean(dim=(2, 3)), expected)
    assert timm.is_model("deit_small_patch16_224")


def test_the_schedule_warms_up_and_ends_at_the_minimum(config):
    settings = config(epochs=10, warmup_epochs=2, lr=1.0, min_lr=0.1)
    rates = [learning_rate(settings, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_what_cannot_work_is_refused_before_anything_is_written(config, tmp_path):
    wrong = create_model("small", num_classes=3, img_size=8, patch=2)
    save_checkpoint(wrong, tmp_path / "three.safetensors")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "bhvit_nani"}, "bhvit_nano"),
        ({"img_size": 13}, "nearest that can work"),
        ({"device": "cuda:77"}, "cannot use device 'cuda:77'"),
        ({"device": "toaster"}, "cannot use device 'toaster'"),
        ({"batch_size": 64}, "do not fill a batch"),
        ({"data": str(tmp_path / "absent")}, "there is no"),
        ({"teacher": str(tmp_path / "three.safetensors")}, "3 classes, the data has 2"),
        ({"teacher": "deit_smal_patch16_224"}, "no teacher"),
        ({"teacher": str(tmp_path / "absent.safetensors")}, "absent"),
        ({"init": str(tmp_path / "absent.safetensors")}, "absent"),
        ({"init": str(tmp_path / "three.safetensors"), "norm": "layer"}, "norm 'batch' (now 'layer')"),
        ({"phases.1.norm": "layer"}, "norm 'batch' (now 'layer')"),
        ({"phases.1.teacher": str(tmp_path / "three.safetensors")}, "3 classes, the data has 2"),
        ({"phases.1.batch_size": 64}, "do not fill a batch"),
        ({"layer_decay": 0.7}, "give --init"),
        ({"accumulate": 3}, "batch_size 8 does not divide into accumulate 3: give 6"),
        ({"accumulate": 4, "batch_size": 12, "mixup": 0.2}, "accumulate 4, pairs to mix: give 8"),
        ({"dampening": 0.1, "weight_bits": 32}, "nothing to dampen"),
    ]
    for changes, message in cases:
        assert message in refused(config(**changes))
        assert not (tmp_path / "run").exists()


def test_a_run_is_replaced_only_when_forced(config, tmp_path):
    train(config(epochs=1), quiet=True)
    assert "--force" in refused(config())
    train(config(epochs=1), quiet=True, force=True)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(config(out=str(tmp_path / "file")))
    assert "cannot write" in refused(config(out=str(tmp_path / "file" / "below")))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(config, tmp_path, monkeypatch):
    real = losses.total_loss
    calls = []

    def sick(*arguments):
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) == 8 else 1.0)

    monkeypatch.setattr(step, "total_loss", sick)
    message = refused(config())
    assert "epoch 2, step 3" in message
    assert "last.safetensors" in message
    kept = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.parameters())
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(step, "total_loss", real)
    assert len(train(config(), resume=True, quiet=True).log) == 3


def test_weights_that_are_not_finite_are_never_saved(config, tmp_path):
    assert "not finite" in refused(config(epochs=1, lr=1e38))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_command_line(settings, arguments, capsys):
    assert main([*arguments(epochs=1), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["eval", result["last"], "--data", settings["data"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == result["validation"]["top1"]
    assert main(["eval", result["last"], "--data", settings["data"]]) == 0
    shown = capsys.readouterr().out
    assert "top-1" in shown
    assert "16 images of the split validation, on which a run's best model is chosen" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        ["train", "--data", "/absent", "--out", "x"],
        ["train", "--out", "x"],
        ["train", "--data", "digits", "--out", "x", "--set", "epcohs=1"],
        ["train", "--data", "digits", "--out", "x", "--recipe", "none"],
        ["train", "--data", "digits", "--out", "x", "--epochs", "0"],
        ["train", "--data", "digits", "--out", "x", "--img-size", "big"],
        ["train", "--out", "/absent", "--resume"],
        ["eval", "absent.safetensors", "--data", "digits"],
        ["eval", "absent.bhv", "--data", "digits"],
        ["eval", "pyproject.toml", "--data", "digits"],
    ],
)
def test_mistakes_end_with_status_2_and_one_line(wrong, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    output = capsys.readouterr()
    assert len(output.err.strip().splitlines()) == 1
    assert not output.out
    assert not list(tmp_path.iterdir())


def test_a_diverging_run_ends_with_status_2(arguments, capsys):
    assert main(arguments(epochs=1, lr=1e38)) == 2
    assert "not finite" in capsys.readouterr().err
