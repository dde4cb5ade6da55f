"""Settings and recipes: values are checked, names are helped with."""

from __future__ import annotations

import dataclasses
import os

import pytest

from bhvit.errors import UserError
from bhvit.spec.values import parse_size
from bhvit.train import TrainConfig, load_recipe, recipe_names
from bhvit.train.config import WHOLE_RUN, parse_setting
from bhvit.train.recipe_files import merged
from bhvit.train.settings import DataSettings

NEEDED = {"data": "digits", "model": "bhvit_nano", "out": "run"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_round_trips(name):
    config = TrainConfig.from_dict({**NEEDED, **load_recipe(name)})
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_values_take_the_type_of_their_field():
    config = TrainConfig.from_dict({**NEEDED, "lr": 1, "img_size": 32, "window": [2, 3], "teacher": None})
    assert config.lr == 1.0
    assert isinstance(config.lr, float)
    assert config.img_size == (32, 32)
    assert config.window == (2, 3)
    assert TrainConfig.from_dict({**NEEDED, "img_size": "64x96"}).img_size == (64, 96)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1.5}, "whole number"),
        ({"epochs": True}, "whole number"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": float("nan")}, "above 0"),
        ({"lr": 10**400}, "lr must be a number"),
        ({"opt_betas": [10**400]}, "opt_betas must be a list of numbers"),
        ({"save_minutes": float("nan")}, "save_minutes must be above 0"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"flip": "yes"}, "true or false"),
        ({"augment": "sometimes"}, "one of none, shift"),
        ({"img_size": "large"}, "HEIGHTxWIDTH"),
        ({"img_size": [1, 2, 3]}, "a size"),
        ({"batch_size": 1}, "at least 2"),
        ({"warmup_epochs": 200}, "warmup_epochs"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"regularisation": float("inf")}, "at least 0"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**NEEDED, **values})


def test_a_missing_setting_is_named():
    with pytest.raises(UserError, match="model is missing"):
        TrainConfig.from_dict({"data": "digits", "out": "run"})


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path, end):
    (tmp_path / "mine.toml").write_bytes(f"\ufeffepochs = 3{end}lr = 0.5{end}".encode())
    assert load_recipe(str(tmp_path / "mine.toml")) == {"epochs": 3, "lr": 0.5}


def test_recipes_by_name_and_by_file(tmp_path):
    with pytest.raises(UserError, match="did you mean digits"):
        load_recipe("digit")
    (tmp_path / "mine.toml").write_text("epochs = 3\n")
    assert load_recipe(str(tmp_path / "mine.toml")) == {"epochs": 3}
    for text, message in [("epochs = ", "not TOML"), ("epcohs = 3", "did you mean epochs")]:
        (tmp_path / "mine.toml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_recipe(str(tmp_path / "mine.toml"))
    with pytest.raises(UserError, match="cannot read"):
        load_recipe(str(tmp_path / "absent.toml"))


def test_settings_from_the_command_line():
    assert parse_setting("lr=1e-3") == ("lr", 1e-3)
    assert parse_setting("flip=false") == ("flip", False)
    assert parse_setting("teacher=deit_small_patch16_224") == ("teacher", "deit_small_patch16_224")
    assert parse_setting("lr=" + "9" * 5000) == ("lr", "9" * 5000)
    assert parse_size("192x256") == (192, 256)
    for text, message in [("lr", "key=value"), ("rl=1", "did you mean lr")]:
        with pytest.raises(UserError, match=message):
            parse_setting(text)


@pytest.mark.parametrize(("warmup", "epochs"), [("3", 2), (3, "two"), (3, None), ([], [])])
def test_a_warm_up_is_shortened_only_by_numbers(warmup, epochs):
    assert merged({"warmup_epochs": warmup}, {"epochs": epochs}) == {"warmup_epochs": warmup, "epochs": epochs}
    assert merged({"warmup_epochs": 3}, {"epochs": 2}) == {"warmup_epochs": 1, "epochs": 2}


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "epochs = " + "9" * 5000, "epochs = ", "\x00"])
def test_a_recipe_that_is_no_toml_is_one_line(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"the recipe .*a\.toml is not TOML"):
        load_recipe(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_recipe_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        load_recipe(str(tmp_path / "a.toml"))


def test_images_are_the_same_in_all_phases():
    assert {field.name for field in dataclasses.fields(DataSettings)} <= set(WHOLE_RUN)
    with pytest.raises(UserError, match=r"phases\.0\.draft: draft is a setting of the whole run"):
        TrainConfig.from_dict({**NEEDED, "phases": [{"draft": 1.0}]})
