"""Training on images with masks: from the folder to labels, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bhvit import Session, UserError, create_model, pack
from bhvit.cli.main import main
from bhvit.data.mask_classes import IGNORED
from bhvit.data.masks import open_masked
from bhvit.image import Preprocess
from bhvit.models import load_checkpoint, save_checkpoint
from bhvit.train import TrainConfig, phase, train
from bhvit.train.augment import Normalizer
from bhvit.train.distributed import BatchShard
from bhvit.train.losses import mask_loss
from bhvit.train.mask_augment import draw_pairs, scaled_pairs
from bhvit.train.settings import AugmentSettings, LossSettings, TeacherSettings
from bhvit.train.teacher import load_teacher
from helpers.masked_images import encoded, make, mask_of
from helpers.randomise import randomise
from helpers.runs import assert_same


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return {
        "data": str(make(tmp_path_factory.mktemp("streets"), count=8)),
        "task": "segment",
        "model": "small",
        "epochs": 2,
        "batch_size": 4,
        "img_size": (8, 16),
        "patch": 2,
        "threads": 1,
        "device": "cpu",
        "augment": "scale-crop",
        "zoom": 0.5,
        "colour": 0.3,
        "balance": 0.5,
        "dice": 0.5,
        "lovasz": 0.5,
    }


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("segment") / "run"
    train(TrainConfig.from_dict({**settings, "out": str(out)}), quiet=True)
    return out


def test_the_log_has_what_a_segmentation_is_measured_by(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(entries) == 2
    for entry in entries:
        assert 0 <= entry["val_miou"] <= 1
        assert 0 < entry["val_pixel_accuracy"] <= 1
        assert entry["val_iou"].keys() == {"sky", "road", "car"}
        assert np.isfinite(entry["val_loss"])
        assert "val_top1" not in entry


def test_a_run_is_not_resumed_on_other_masks_or_classes(settings, tmp_path):
    data = shutil.copytree(settings["data"], tmp_path / "own")
    config = TrainConfig.from_dict({**settings, "data": str(data), "epochs": 1, "out": str(tmp_path / "run")})
    train(config, quiet=True)
    masks, names = data / "masks" / "train", data / "classes.txt"
    first, second = sorted(masks.iterdir())[:2]
    changes = {
        "a mask of other bytes": ((first, encoded(mask_of(3)) + b"more"), "its train images changed"),
        "two masks exchanged": ((first, second.read_bytes()), "its train images changed"),
        "a class renamed": ((names, b"sky\nstreet\ncar\nunlabelled\n"), "it learned the classes sky, road, car"),
        "classes in another order": ((names, b"road\nsky\ncar\nunlabelled\n"), "it learned the classes sky, road, car"),
        "a class that counts again": ((names, b"sky\nroad\ncar\ntree\n"), "the data now has sky, road, car, tree"),
    }
    for what, ((path, changed), said) in changes.items():
        before = path.read_bytes()
        assert len(changed) != len(before) or path == names, what
        path.write_bytes(changed)
        with pytest.raises(UserError, match=said):
            train(config, resume=True, quiet=True)
        path.write_bytes(before)
    train(config, resume=True, quiet=True)  # as it was


def test_resuming_within_an_epoch_gives_the_same_bits(settings, run, kill, tmp_path):
    config = TrainConfig.from_dict({**settings, "out": str(tmp_path / "run"), "save_minutes": 1e-9})
    kill(config, "_step", 2)
    train(config, resume=True, quiet=True)
    assert_same(run, tmp_path / "run")


def test_packed_it_labels_as_the_model_does(settings, run, tmp_path, capsys):
    packed = tmp_path / "streets.bhv"
    assert main(["pack", str(run / "last.safetensors"), str(packed)]) == 0
    assert main(["verify", str(run / "last.safetensors"), str(packed), "--data", settings["data"], "--trace", "1"]) == 0
    assert "pixel agreement" in capsys.readouterr().out
    reports = []
    for model in (packed, run / "last.safetensors"):
        assert main(["eval", str(model), "--data", settings["data"], "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert abs(reports[0]["miou"] - reports[1]["miou"]) < 0.02
    picture = Path(settings["data"]) / "images/test/0.jpg"
    assert main(["segment", str(packed), str(picture), "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.png", "0.overlay.jpg"}
    from PIL import Image

    with Image.open(tmp_path / "out/0.png") as written:
        assert (written.mode, written.size) == ("P", (8, 6))
        np.testing.assert_array_equal(np.asarray(written), Session(packed).segment(picture))
    assert main(["segment", str(packed), str(picture), "--out", str(tmp_path / "out")]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert main(["segment", str(picture), "--model", str(packed), "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert main(["segment", str(packed), str(picture), "--windows"]) == 0
    assert main(["classify", str(packed), str(picture)]) == 2
    assert "labels pixels" in capsys.readouterr().err


def test_segments_are_resumed_among_those_of_the_same_model_only(settings, run, tmp_path, capsys):
    packed, other, out = tmp_path / "streets.bhv", tmp_path / "other.bhv", tmp_path / "out"
    assert main(["pack", str(run / "last.safetensors"), str(packed)]) == 0
    model = load_checkpoint(run / "last.safetensors")
    with torch.no_grad():
        next(model.parameters()).mul_(0.5)
    pack(model, other)
    picture = str(Path(settings["data"]) / "images/test/0.jpg")
    words = [picture, "--out", str(out)]
    assert main(["segment", str(packed), *words]) == 0
    before = (out / "0.png").read_bytes()
    for changed in ([str(other), *words], [str(packed), *words, "--windows"]):
        assert main(["segment", *changed, "--resume"]) == 2
        assert "0.png was made by another model or with other options" in capsys.readouterr().err
        assert (out / "0.png").read_bytes() == before
    within = str(Path(settings["data"]) / "images/test/masks")
    assert main(["segment", str(packed), str(Path(picture).parent), "--out", within]) == 2
    assert "would be read as pictures" in capsys.readouterr().err
    own = tmp_path / "own.jpg"
    own.write_bytes(Path(picture).read_bytes())
    assert main(["segment", str(packed), str(own), "--out", str(out)]) == 0
    assert main(["segment", str(packed), str(own), "--out", str(out), "--resume"]) == 0
    own.write_bytes(encoded(np.zeros((6, 8, 3), np.uint8), "JPEG"))  # another picture of that name
    capsys.readouterr()
    assert main(["segment", str(packed), str(own), "--out", str(out), "--resume"]) == 2
    assert "or of another image than" in capsys.readouterr().err
    (out / "0.png").write_bytes(b"")
    assert main(["segment", str(packed), *words, "--resume"]) == 2  # not a label map that a run of ours wrote
    assert main(["segment", str(packed), *words, "--force"]) == 0
    assert (out / "0.png").read_bytes() == before


def test_each_image_has_results_of_its_own(settings, run, tmp_path):
    packed, out = tmp_path / "streets.bhv", tmp_path / "out"
    assert main(["pack", str(run / "last.safetensors"), str(packed)]) == 0
    picture = (Path(settings["data"]) / "images/test/0.jpg").read_bytes()
    places = [tmp_path / name for name in ("one/a.jpg", "two/a.jpg", "three/a-2.jpg", "four/a.png")]
    for place in places:
        place.parent.mkdir()
        place.write_bytes(picture)
    assert main(["segment", str(packed), *map(str, places), "--out", str(out), "--no-overlay"]) == 0
    assert {path.name for path in out.iterdir()} == {"a.png", "a-2.png", "a-2-2.png", "a-3.png"}


def test_a_classifier_gets_a_decoder(settings, tmp_path):
    start = create_model("small", num_classes=5, img_size=8, patch=2)
    save_checkpoint(start, tmp_path / "classifier.safetensors")
    out = tmp_path / "run"
    config = {**settings, "epochs": 1, "out": str(out), "init": str(tmp_path / "classifier.safetensors"), "lr": 1e-9}
    train(TrainConfig.from_dict(config), quiet=True)
    model = load_checkpoint(out / "last.safetensors")
    assert model.spec.task == "segment"
    torch.testing.assert_close(model.stem.conv.weight, start.stem.conv.weight, atol=1e-6, rtol=0)


def test_a_twin_teaches(settings, run, tmp_path):
    """Where the teacher alone counts, other masks train the same weights, and another teacher others."""
    other = make(tmp_path / "other", count=8)
    for index, path in enumerate(sorted((other / "masks/train").iterdir())):
        path.write_bytes(encoded(mask_of(100 + index)))

    alone = {**settings, "epochs": 1, "distillation": 1.0, "label_weight": 0.0}

    def weights(name, **changes):
        train(TrainConfig.from_dict({**alone, **changes, "out": str(tmp_path / name)}), quiet=True)
        return load_checkpoint(tmp_path / name / "last.safetensors").state_dict()

    teacher, stranger = str(run / "last.safetensors"), str(tmp_path / "stranger.safetensors")
    save_checkpoint(randomise(load_checkpoint(teacher)), stranger)
    taught = weights("taught", teacher=teacher)
    same = weights("same", teacher=teacher, data=str(other))
    assert all(torch.equal(taught[name], tensor) for name, tensor in same.items())
    different = weights("different", teacher=stranger)
    assert not torch.equal(taught["stem.conv.weight"], different["stem.conv.weight"])


def test_other_teachers_are_refused(settings, run):
    names, student = ("sky", "road", "car"), Preprocess.usual((8, 16), 3)
    teacher = TeacherSettings(teacher=str(run / "last.safetensors"))
    assert load_teacher(teacher, student, names, "segment") is not None
    with pytest.raises(UserError, match="is to segment images, the student to classify them"):
        load_teacher(teacher, student, names, "classify")
    with pytest.raises(UserError, match="labels 8x16 pixels, the student 16x16: both need the same --img-size"):
        load_teacher(teacher, Preprocess.usual((16, 16), 3), names, "segment")
    with pytest.raises(UserError, match="the teacher resnet18 is no segmentation"):
        load_teacher(TeacherSettings(teacher="resnet18"), student, names, "segment")
    with pytest.raises(UserError, match="a file of a teacher's outputs is of whole images"):
        TrainConfig.from_dict({**settings, "out": "run", "teacher": "outputs.npz"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classify"}, "has no effect: it is for images with masks"),
        ({"augment": "shift"}, "augment=shift knows no masks"),
        ({"mixup": 0.1}, "mixup has no meaning for masks"),
        ({"erase": 0.1}, "erase has no meaning for masks"),
        ({"crop": 0.5}, "crop has no meaning for masks"),
        ({"decoder_channels": 96}, "decoder_channels must be a multiple of 64"),
        ({"decoder_blocks": -1}, "decoder_blocks must be 0 to 16"),
        ({"img_size": (8, 9)}, "img_size 8x9 does not fit"),
        ({"foreground": ["tree"]}, "has no class tree for the foreground"),
    ],
)
def test_settings_that_cannot_be(settings, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(TrainConfig.from_dict({**settings, **changes, "out": str(tmp_path / "run")}), quiet=True)
    assert not (tmp_path / "run").exists()


def test_trained_on_the_validation_images_the_last_epoch_is_the_one_to_take(settings, tmp_path, capsys):
    words = ["--data", settings["data"], "--task", "segment", "--model", "small", "--img-size", "8x16", "--epochs", "1"]
    further = ["patch=2", "augment=none", "include_validation=true"]
    arguments = [*words, "--batch-size", "4", "--out", str(tmp_path / "run"), *(f"--set={text}" for text in further)]
    assert main(["train", "--quiet", *arguments]) == 0
    shown = capsys.readouterr().out
    assert f"next: bhvit pack {tmp_path / 'run' / 'last.safetensors'} " in shown
    assert "validation images, which it was trained on, too" in shown
    assert "best" not in shown


def test_validation_images_can_be_learned_from(settings, tmp_path):
    config = {**settings, "epochs": 1, "out": str(tmp_path / "run"), "include_validation": True, "foreground": ["road"]}
    result = train(TrainConfig.from_dict(config), quiet=True)
    assert json.loads((tmp_path / "run/data.json").read_text())["train"]["images"] == 16
    assert result.metrics.class_names == ("other", "road")


def test_masks_move_with_their_images():
    preprocess = Preprocess(size=(48, 64), crop=1.0)
    one = torch.zeros(8, 48, 64, 4, dtype=torch.uint8)
    one[:, 24:, :, 3] += 1
    one[:, :, 32:, 3] += 2  # a label for each quarter
    one[..., :3] = one[..., 3:] * 80  # the picture shows its mask
    options = AugmentSettings(augment="scale-crop", zoom=0.9)

    def augmented(settings):
        drawn = draw_pairs(settings, 3, BatchShard(8))
        return scaled_pairs(one, preprocess, Normalizer(preprocess, torch.device("cpu")), drawn)

    images, labels = augmented(dataclasses.replace(options, flip=True))
    shades = images * torch.tensor(preprocess.std)[:, None, None] + torch.tensor(preprocess.mean)[:, None, None]
    inside = labels != IGNORED
    assert 0.3 < inside.float().mean() < 1
    shown = shades[:, 0] * 255 / 80
    assert ((shown - labels).abs() < 0.5)[inside].float().mean() > 0.95  # bilinear and nearest differ at edges alone
    assert ((shown - one[..., 3]).abs() < 0.5)[inside].float().mean() < 0.9  # they have moved
    same, plain = augmented(AugmentSettings(augment="none", flip=False))
    assert torch.equal(plain, one[..., 3].long())
    assert same.shape == (8, 3, 48, 64)


def test_losses_by_hand():
    logits = torch.tensor([[[[2.0, -1.0]], [[0.0, 1.0]]]])  # (1, classes, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    torch.testing.assert_close(
        mask_loss(LossSettings(), logits, labels), torch.nn.functional.cross_entropy(logits, labels)
    )
    ignored = torch.tensor([[[0, IGNORED]]])
    torch.testing.assert_close(
        mask_loss(LossSettings(), logits, ignored),
        torch.nn.functional.cross_entropy(logits[..., :1], labels[..., :1]),
    )
    assert mask_loss(LossSettings(), logits, torch.full_like(labels, IGNORED)) == 0
    sure = torch.tensor([[[[50.0, -50.0]], [[-50.0, 50.0]]]])
    for term in ("dice", "lovasz"):
        assert mask_loss(LossSettings(**{term: 1.0}), sure, labels) < 1e-6
        assert mask_loss(LossSettings(**{term: 1.0}), -sure, labels) > 1.0


def test_windows_of_one_size_are_the_whole(settings, tmp_path):
    model = create_model("small", num_classes=3, img_size=(8, 16), patch=2, task="segment")
    pack(model.eval(), tmp_path / "m.bhv")
    session = Session(tmp_path / "m.bhv")
    picture = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(session.segment(picture, windows=True), session.segment(picture))
    assert session.segment(picture[:5, :9]).shape == (5, 9)
    large = np.random.default_rng(0).integers(0, 256, (21, 50, 3)).astype(np.uint8)
    assert session.segment(large).shape == session.segment(large, windows=True, overlap=0.5).shape == (21, 50)
    assert session.segment(large[:5], windows=True).shape == (5, 50)
    with pytest.raises(UserError, match="overlap must be at least 0 and below 1"):
        session.segment(large, windows=True, overlap=1.0)
    logits = session(picture[None])
    np.testing.assert_array_equal(logits[0].argmax(axis=0), session.segment(picture))


class _OnDevice:
    """As much of pixels on a GPU as counting asks for: they reach NumPy through the CPU alone."""

    def __init__(self, pixels):
        self._pixels = pixels

    def __getitem__(self, index):
        return _OnDevice(self._pixels[index])

    def cpu(self):
        return self._pixels


def test_classes_are_counted_where_decoded_images_are_on_a_gpu(settings):
    images = open_masked(settings["data"], "train")
    classes = len(images.class_names)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, classes, (len(images), 8, 16, 4), np.uint8))
    batches: Any = SimpleNamespace(pixels=_OnDevice(pixels))
    expected = np.bincount(pixels[..., -1].flatten().numpy(), minlength=classes)
    data: Any = SimpleNamespace(train=images)
    assert phase._counts(data, batches).tolist() == expected.tolist()
