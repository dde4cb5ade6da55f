"""Names of other tools are answered with ours, and what cannot work is refused quickly."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import constants

import bhvit
from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.spec.meant import _EXPLAINED, _MEANT
from bhvit.spec.overrides import OVERRIDES
from bhvit.train import TrainConfig, load_recipe, train
from bhvit.train.config import FIELDS
from helpers.without_torch import WITHOUT_TORCH


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--learning-rate 0.1", "has no option --learning-rate; did you mean --lr?"),
        ("--optimizer sgd", "has no option --optimizer; did you mean --set opt=…?"),
        ("--lr-scheduler=step", "has no option --lr-scheduler; did you mean --set sched=…?"),
        ("--image-size 64", "has no option --image-size; did you mean --img-size?"),
        ("--num_workers 2", "has no option --num_workers; did you mean --workers?"),
        ("--gpus 2", "has no option --gpus; --device chooses one (cuda:1); `bhvit train --processes 2"),
        ("--pretrained", "has no option --pretrained; --init starts from the weights"),
        ("--set learning_rate=1", "no setting 'learning_rate'; did you mean lr?"),
        ("--set optimizer=sgd", "no setting 'optimizer'; did you mean opt?"),
        ("--set phases.1.weight-decay=1", "no setting 'weight-decay'; did you mean weight_decay?"),
        ("--set phases.1.wd=1", "no setting 'wd'; did you mean weight_decay?"),
        ("--set gpus=2", "no setting 'gpus'; device chooses one (cuda:1)"),
        ("--set drop_path_rate=0.1", "no setting 'drop_path_rate'; did you mean drop_path?"),
        ("--set patch_size=2", "no setting 'patch_size'; did you mean patch?"),
        ("--set pretrained=true", "no setting 'pretrained'; init starts from the weights"),
        ("--set num_classes=10", "the classes are those of the data"),
    ],
)
def test_what_other_tools_call_a_setting_is_answered_with_ours(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", "digits", "--out", "absent", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_every_hint_leads_to_a_setting() -> None:
    assert set(_MEANT.values()) <= set(FIELDS)
    assert not (_MEANT.keys() | _EXPLAINED.keys()) & {*FIELDS, *OVERRIDES} - {"channels"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("channels", 1, r"stages\.0\.channels; of images it is in_chans="),
        ("pretrained", True, r'bhvit\.load_checkpoint\("cifar10"\) has trained weights'),
        ("weights", "DEFAULT", r'bhvit\.load_checkpoint\("cifar10"\) has trained weights'),
        ("in_channels", 1, "called in_chans in create_model"),
        ("image_size", 64, "called img_size"),
        ("n_classes", 3, "called num_classes"),
        ("drop_path_rate", 0.1, "called drop_path"),
        ("drop_rate", 0.1, "drop_path in create_model is stochastic depth"),
        ("patch_size", 4, "called patch"),
    ],
)
def test_what_other_libraries_give_a_model_is_answered(name: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        bhvit.create_model("bhvit_nano", **{name: value})


def test_a_recipe_with_the_name_of_another_tool_is_answered(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("learning_rate = 1e-3\n")
    with pytest.raises(UserError, match="no setting 'learning_rate'; did you mean lr"):
        load_recipe(str(recipe))


@pytest.mark.parametrize("changes", [{"epochs": 5}, {"lr": 0.1}, {"seed": 3}])
def test_other_settings_for_a_resumed_run_lead_to_init(changes: dict[str, Any], config: Any) -> None:
    result = train(config(epochs=1), quiet=True)
    with pytest.raises(
        UserError, match=rf"`bhvit train --init {result.last} --out NEW` starts a run with other settings"
    ):
        train(config(**{"epochs": 1, **changes}), resume=True, quiet=True)


@pytest.mark.parametrize("split", ["", "train"])
def test_an_empty_class_folder_is_refused_before_torch_loads(split: str, images: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / split
    data.mkdir(parents=True)
    (data / "full").symlink_to(images / "train" / "above")
    (data / "second").symlink_to(images / "train" / "below")
    (data / "empty").mkdir()
    program = f"{WITHOUT_TORCH}\nfrom bhvit.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    words = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    result = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no images of class empty" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reachable", [True, False])
def test_a_teacher_to_download_fails_at_once_without_a_network(
    reachable: bool, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Connection:
        def close(self) -> None:
            pass

    def connect(address: tuple[str, int], timeout: float) -> Connection:
        assert timeout <= 10
        if reachable:
            return Connection()
        raise OSError("no route")

    def create(*_: Any, **settings: Any) -> None:
        seen.append((settings.get("pretrained"), constants.HF_HUB_OFFLINE))
        raise RuntimeError("cannot be found")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError, match=r"cannot load the teacher resnet18: cannot be found; --set teacher_file=FILE"):
        train(config(teacher="resnet18"), quiet=True)
    assert seen == [(True, not reachable)]
    assert constants.HF_HUB_OFFLINE is False


def test_settings_keep_their_names(settings: dict[str, Any]) -> None:
    for name in FIELDS:
        value = TrainConfig.from_dict(settings).to_dict()[name]
        assert TrainConfig.from_dict({**settings, name: value}).to_dict()[name] == value
