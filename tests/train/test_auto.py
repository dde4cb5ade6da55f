"""Settings that the images choose, and what they consist of: balance, early stopping, the run's folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bhvit.cli.main import main
from bhvit.data import open_dataset
from bhvit.errors import UserError
from bhvit.models import create_model, load_checkpoint, model_spec, save_checkpoint
from bhvit.train import TrainConfig, auto, train
from bhvit.train.losses import class_weights, total_loss
from bhvit.train.warm_start import check_same_architecture
from helpers.masked_images import make


def photos(root, sizes, edge):
    """Class folders with as many random images of `edge` pixels as `sizes` says."""
    rng = np.random.default_rng(0)
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (edge, edge + 9, 3), dtype=np.uint8)).save(
                root / name / f"{index}.png"
            )
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("few") / "my photos", {"a": 24, "b": 6}, 96)


def test_settings_follow_number_and_size_of_images(few, tmp_path):
    settings = auto.chosen(open_dataset(str(few), "train"))
    assert (settings["init"], settings["model"], settings["augment"]) == ("tinyimagenet", "bhvit_nano", "shift")
    assert (settings["batch_size"], settings["epochs"]) == (24, 60)  # 24 images train, 6 are held out
    assert settings["img_size"] == [96, 112]  # larger than the model's 64, and of the images' aspect
    small = auto.chosen(open_dataset(str(photos(tmp_path / "small", {"a": 300, "b": 100}, 20)), "train"))
    assert (small["init"], small["augment"], small["batch_size"]) == ("cifar10", "shift", 32)
    assert small["img_size"] == [32, 48]  # 20x29, no larger than the model's
    large = auto.chosen(open_dataset(str(photos(tmp_path / "large", {"a": 4, "b": 4}, 120)), "train"))
    assert (large["init"], large["augment"]) == ("tinyimagenet", "resized-crop")


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(144, 192)] * 9, [96, 128]),
        ([(192, 144)] * 9, [128, 96]),
        ([(3000, 4000)] * 9 + [(3000, 3000)], [96, 128]),  # one of ten is another
        ([(3000, 4000)] * 8 + [(4000, 3000)] * 2, [96, 96]),
        ([(1000, 9000)] * 9, [96, 192]),
        ([(70, 70)] * 9, [64, 64]),
        ([(85, 85)] * 9, [80, 80]),
        ([(30, 40)] * 9, [64, 80]),
    ],
)
def test_the_input_has_the_aspect_of_the_images_and_is_larger_where_they_are(shapes, size):
    assert auto._input_size(np.array(shapes), 64, 16) == size
    model_spec("bhvit_nano", img_size=tuple(size), patch=4, stem_kernel=8)


def test_sizes_are_multiples_of_what_the_last_stage_covers():
    assert auto._multiple({"model": "bhvit_nano", "patch": 4}) == 16
    assert auto._multiple({"model": "bhvit_nano", "patch": 2}) == 8
    assert auto._multiple({"model": "bhvit_tiny", "patch": 4}) == 32


def test_batches_and_epochs_of_larger_sets(few):
    dataset = open_dataset(str(few), "train")
    for count, batch, epochs in ((1_500, 32, 60), (5_000, 64, 38), (45_000, 128, 10), (1_000_000, 128, 10)):
        settings = auto.chosen(dataset.subset(np.resize(np.arange(len(dataset)), count)))
        assert (settings["batch_size"], settings["epochs"]) == (batch, epochs)


@pytest.mark.parametrize(
    ("given", "open_"),
    [
        ({"data": "photos"}, True),
        ({"data": "photos", "epochs": 3, "img_size": "64"}, True),
        ({"data": "photos", "task": "classify"}, True),
        ({"data": "cifar10"}, False),
        ({"data": "photos", "model": "bhvit_tiny"}, False),
        ({"data": "photos", "init": "cifar10"}, True),
        ({"data": "photos", "weight_bits": 32}, True),
        ({"data": "photos", "norm": "layer"}, False),
        ({"data": "photos", "phases.0.epochs": 1}, False),
        ({"data": "photos", "stages.0.mixer": "pooling"}, False),
        ({"data": "photos", "channels": 1}, False),
    ],
)
def test_what_names_a_model_leaves_nothing_to_choose(given, open_):
    assert auto.applies(given) is open_


def test_the_plain_command_trains_and_says_what_it_chose(few, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(few, "my photos")
    assert main(["train", "--data", "my photos", "--epochs", "1", "--workers", "0", "--set", "balance=1"]) == 0
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("chosen for these images: ")]
    assert "bundled model tinyimagenet at 96x112" in line
    assert "1 epoch (--epochs) of 24 images in batches of 24" in line
    assert "--set balance=1" in line
    config = json.loads((tmp_path / "runs" / "my photos" / "config.json").read_text())
    assert (config["epochs"], config["balance"], config["patience"], config["init"]) == (1, 1.0, 15, "tinyimagenet")
    assert load_checkpoint("runs/my photos/last.safetensors").class_names == ("a", "b")
    assert main(["train", "--data", "my photos"]) == 2  # the folder is taken
    assert main(["train", "--data", "my photos", "--resume"]) == 0  # in the folder that has its name
    assert main(["train", "--init", "road", "--data", "my photos", "--out", "other"]) == 2
    assert "road is packed alone, without one to train from; bundled models: cifar10, tinyimagenet" in (
        capsys.readouterr().err
    )
    assert main(["train", "--resume"]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_a_start_of_ones_own_is_chosen_for(few, tmp_path, capsys):
    settings = auto.chosen(open_dataset(str(few), "train"), "cifar10")
    assert (settings["init"], settings["patch"], settings["layer_decay"]) == ("cifar10", 2, 0.8)
    with pytest.raises(UserError, match="no checkpoint at nowhere"):
        auto.chosen(open_dataset(str(few), "train"), "nowhere")
    given = ["--epochs", "1", "--workers", "0", "--img-size", "32", "--init", "cifar10", "--out", str(tmp_path / "run")]
    quiet = ["--set", "balance=0", "--set", "patience=0", "--set", "layer_decay=1", "--batch-size", "8"]
    assert main(["train", "--data", str(few), *given, *quiet]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("chosen for these images: ")]
    assert "the bundled model cifar10 at 32x32" in line
    assert "batches of 8 (--batch-size)" in line
    assert not any(name in line for name in ("balance", "patience", "layer_decay"))  # they do nothing now


@pytest.mark.parametrize(
    ("environment", "words", "told"),
    [
        ({}, [], True),
        ({}, ["--processes", "2"], True),  # before it starts them
        ({"RANK": "0"}, ["--processes", "2"], False),
        ({"RANK": "0"}, [], True),  # torchrun
        ({"RANK": "1"}, [], False),
    ],
)
def test_of_several_processes_one_says_what_was_chosen(few, environment, words, told, monkeypatch, capsys):
    from bhvit.cli.main import build_parser
    from bhvit.cli.train import _config

    if environment:
        for name, value in {"WORLD_SIZE": "2", "MASTER_PORT": "1", **environment}.items():
            monkeypatch.setenv(name, value)
    _config(build_parser().parse_args(["train", "--data", str(few), *words]))
    assert ("chosen for these images" in capsys.readouterr().err) is told


def test_weights_of_classes():
    labels = np.array([0] * 8 + [1] * 2)
    assert class_weights(labels, 2, 0.0).tolist() == [1, 1]
    torch.testing.assert_close(class_weights(labels, 2, 1.0), torch.tensor([0.625, 2.5]))
    half = class_weights(labels, 3, 0.5)
    assert half[1] / half[0] == pytest.approx(2)
    assert half[2] == 0
    assert (half[:2] * torch.tensor([8, 2])).sum() == pytest.approx(10)


def test_rare_classes_count_more_in_the_loss(config):
    logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    model = torch.nn.Linear(1, 1)
    plain = total_loss(config(), model, logits, labels, None)
    weighted = total_loss(config(), model, logits, labels, None, 1.0, torch.tensor([0.5, 2.0]))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(plain, losses.mean())
    torch.testing.assert_close(weighted, (0.5 * losses[0] + 2 * losses[1]) / 2.5)


def test_balance_changes_what_is_learned(few, config, tmp_path):
    given = {"data": str(few), "epochs": 1, "workers": 0}
    runs = [train(config(**given, balance=b, out=str(tmp_path / str(b))), quiet=True).log for b in (0.0, 1.0)]
    assert runs[0][0]["train_loss"] != runs[1][0]["train_loss"]


def test_a_run_ends_after_its_patience_and_stays_ended(config, tmp_path, capsys):
    # Weights hardly move, so that accuracy cannot rise for long.
    still = config(epochs=40, patience=2, lr=1e-12, out=str(tmp_path / "still"))
    found = [entry["val_top1"] for entry in train(still).log]
    best = found.index(max(found)) + 1
    assert len(found) == best + 2 < 40
    assert f"stopped after epoch {best + 2}: 2 epochs without a better validation accuracy" in capsys.readouterr().err
    assert len(train(still, resume=True, quiet=True).log) == best + 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": -1}, "patience must be at least 0"),
        ({"balance": 1.5}, "balance must lie between 0 and 1"),
        ({"patience": 3, "phases.0.epochs": 1}, "which a run of phases cannot"),
        ({"phases.0.patience": 1}, "which a run of phases cannot|patience is a setting"),
    ],
)
def test_settings_that_cannot_work(settings, changes, message):
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**settings, **changes})


def test_a_segmentation_is_no_start_for_a_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("BHVIT_MODELS", str(tmp_path))
    for name in ("street", "photo"):
        (tmp_path / f"{name}.bhv").touch()
    with pytest.raises(
        UserError, match=r"no checkpoint at street: street is packed alone.*; bundled models: .*cifar10"
    ) as error:
        load_checkpoint("street")
    assert "photo" not in str(error.value)
    before = auto._nearest_bundled(500)
    for name, task in (("street", "segment"), ("photo", "classify")):
        save_checkpoint(
            create_model("bhvit_nano", num_classes=3, img_size=400, task=task), tmp_path / f"{name}.safetensors"
        )
        assert auto._nearest_bundled(500) == (before if task == "segment" else name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("bhvit_nano", "tinyimagenet", (192, 256), 8)),
        ("--img-size 96x128 --epochs 2", ("bhvit_nano", "tinyimagenet", (96, 128), 8)),
        ("--model bhvit_scene", ("bhvit_scene", None, None, 12)),
        ("--set decoder_channels=128", ("bhvit_nano", "tinyimagenet", (192, 256), 8)),
        ("--set weight_bits=32 --set activation_bits=32", ("bhvit_nano", "tinyimagenet", (192, 256), 8)),  # its twin
        ("--set patch=8", ("bhvit_scene", None, None, 12)),
        ("--init cifar10 --model bhvit_tiny", ("bhvit_tiny", "cifar10", (192, 256), None)),
        ("--init cifar10", ("bhvit_nano", "cifar10", (192, 256), 4)),  # its stem, not that of the recipe's own
        ("--init cifar10 --model bhvit_nano --set stem_kernel=4", ("bhvit_nano", "cifar10", (192, 256), 4)),
        ("--recipe road", ("bhvit_nano", "tinyimagenet", (128, 160), 8)),
        ("--recipe road --init cifar10", ("bhvit_nano", "cifar10", (128, 160), 4)),
    ],
)
def test_training_on_masks_starts_from_a_bundled_model_unless_told_otherwise(words, expected, tmp_path, monkeypatch):
    from bhvit.cli.main import build_parser
    from bhvit.cli.train import _config

    make(tmp_path / "streets", ("train",), count=10)
    monkeypatch.chdir(tmp_path)
    config = _config(build_parser().parse_args(["train", "--task", "segment", "--data", "streets", *words.split()]))
    assert (config.model, config.init, config.img_size, config.overrides.get("stem_kernel")) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"decoder_channels": 64, "decoder_hidden": 256}),  # a classifier: the recipe's decoder
        ({"task": "segment", "decoder_channels": 128}, {"decoder_channels": 128}),
        ({"stem_kernel": 6, "norm": "layer"}, {"stem_kernel": 6, "norm": "layer", "decoder_channels": 64}),
    ],
    ids=str,
)
def test_masks_can_start_from_any_model_of_ones_own(settings, expected, tmp_path):
    from bhvit.cli.main import build_parser
    from bhvit.cli.train import _config

    start = create_model("bhvit_nano", num_classes=3, img_size=64, **settings)
    save_checkpoint(start, tmp_path / "own.safetensors")
    words = ["train", "--task", "segment", "--data", "streets", "--init", str(tmp_path / "own.safetensors")]
    config = _config(build_parser().parse_args(words))
    assert {name: config.overrides.get(name) for name in expected} == expected
    assert config.overrides.get("stem_kernel") == settings.get("stem_kernel")
    overrides = {name: value for name, value in config.overrides.items() if name != "task"}
    overrides["patch"] = config.patch
    model = create_model(config.model, num_classes=2, img_size=config.img_size, task="segment", **overrides)
    check_same_architecture(start.spec, model.spec, "own.safetensors")


@pytest.mark.parametrize(
    ("count", "words", "batch"),
    [
        (5, [], 4),  # 1 of them is held out
        (5, ["--batch-size", "3"], 3),
        (40, [], 8),
        (40, ["--set", "test_fraction=0.9"], 4),
    ],
)
def test_a_batch_has_no_more_images_than_there_are(tmp_path, capsys, count, words, batch):
    data = make(tmp_path / "streets", (".",), count=count)
    out = tmp_path / "run"
    command = ["train", "--task", "segment", "--data", str(data), "--out", str(out), "--epochs", "1", *words]
    small = ["--model", "bhvit_nano", "--img-size", "16x32", "--set", "patch=4", "--workers", "0", "--threads", "1"]
    assert main([*command, *small]) == 0
    said = f"batches of {batch}, as there are no more training images\n"
    assert (said in capsys.readouterr().err) == (batch == 4)
    assert json.loads((out / "config.json").read_text())["batch_size"] == batch


def test_a_named_recipe_keeps_its_batch(tmp_path, capsys):
    data = make(tmp_path / "streets", (".",), count=5)
    command = ["train", "--recipe", "segment", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "4 training images do not fill a batch of 8: give --batch-size 4 or less" in capsys.readouterr().err


def test_a_single_image_is_too_few(tmp_path, capsys):
    data = make(tmp_path / "streets", ("train", "val"), count=1)
    command = ["train", "--task", "segment", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "there is 1 training image, and batch norm needs two or more: add some" in capsys.readouterr().err
