"""The ablations are settings of a run: each trains, is written down, and cannot change on the way."""

from __future__ import annotations

import json
import math

import pytest

from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.models import load_checkpoint, model_spec
from bhvit.train import TrainConfig, load_recipe, train
from bhvit.train.config import parse_setting

ABLATIONS = [
    "mixer=attention",
    "mixer=pooling",
    "mixer=pooled_attention",
    "stages.0.mixer=pooling",
    "shifts=none",
    "shifts=[3]",
    "shifts=5",
    "branches=pool",
    "attention=gsb",
    "attention=one_bit",
    "recu=true",
    "downsample=float",
    "norm=layer",
    "weight_bits=32",
    "activation_bits=32",
    "stages.1.activation_bits=32",
    "stem_activation=none",
    "stem_kernel=6",
    "centre_conv_weights=false",
    "depth=2",
    "heads=1",
    "window=2",
]


@pytest.mark.parametrize("setting", ABLATIONS)
def test_every_ablation_trains_and_is_written_down(config, setting):
    name, value = parse_setting(setting)
    result = train(config(epochs=1, batch_size=40, **{name: value}), quiet=True)
    assert math.isfinite(result.log[0]["train_loss"])
    spec = load_checkpoint(result.last).spec
    assert spec == model_spec("small", num_classes=2, **config().model_settings() | {name: value})
    assert spec != model_spec("small", num_classes=2, **config().model_settings())


def test_regularisation_needs_binary_weights(config, tmp_path):
    with pytest.raises(UserError, match="nothing to regularise"):
        train(config(weight_bits=32, regularisation=0.1), quiet=True)
    assert not (tmp_path / "run").exists()
    assert train(config(epochs=1, regularisation=0.1, **{"stages.0.weight_bits": 32}), quiet=True).log


def test_switches_stand_next_to_the_other_settings_wherever_settings_are_named(config, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('epochs = 1\nattention = "gsb"\nstages.1.heads = 1\n[stages.0]\nmixer = "pooling"\n')
    values = load_recipe(str(recipe))
    assert values == {"epochs": 1, "attention": "gsb", "stages.1.heads": 1, "stages.0.mixer": "pooling"}
    settings = config(**values, shifts="none")
    assert settings.overrides == {
        "attention": "gsb",
        "shifts": (),
        "stages.0.mixer": "pooling",
        "stages.1.heads": 1,
    }
    written = json.loads(json.dumps(settings.to_dict()))
    assert written["stages.0.mixer"] == "pooling"
    assert TrainConfig.from_dict(written) == settings
    direct = TrainConfig(
        data="digits", model="small", out="run", overrides={"shifts": "both", "stages": {0: {"mixer": "pooling"}}}
    )
    assert direct.overrides == {"shifts": (3, 5), "stages.0.mixer": "pooling"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("atention=gsb", "did you mean attention"),
        ("mixr=pooling", "did you mean mixer"),
        ("stages.0.mixr=pooling", "did you mean mixer"),
        ("weigth_decay=0.1", "did you mean weight_decay"),
        ("weightbits=1", "did you mean weight_bits"),
        ("norms=layer", "did you mean norm"),
        ("entirely_wrong=1", "known: data, model"),
    ],
)
def test_a_wrong_key_is_answered_from_settings_and_switches_together(text, message):
    with pytest.raises(UserError, match=message):
        parse_setting(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["mixer=window"], "one of conv, attention"),
        (["stages.2.mixer=conv"], "small has stages 0 to 1"),
        (["weight_bits=8"], "weight_bits must be 1 or 32"),
        (["mixer=conv", "attention=gsb"], "attention has no effect"),
    ],
)
def test_what_cannot_be_ends_with_one_line_before_anything_is_written(arguments, capsys, tmp_path, given, message):
    assert main([*arguments(), *(f"--set={setting}" for setting in given)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_from_the_command_line_to_a_checkpoint_and_no_other_architecture_on_resume(arguments, capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main([*arguments(epochs=1), "--set", "attention=gsb", "--set", "norm=layer"]) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (written["attention"], written["norm"]) == ("gsb", "layer")
    spec = load_checkpoint(tmp_path / "run" / "last.safetensors").spec
    assert (spec.attention, spec.norm) == ("gsb", "layer")
    resume = ["train", "--out", out, "--resume", "--quiet"]
    assert main(resume) == 0
    # What the run has anyway, said again in other words, changes nothing.
    assert main([*resume, "--set", "shifts=both", "--set", "stages.1.mixer=attention"]) == 0
    capsys.readouterr()
    assert main([*resume, "--set", "attention=one_bit", "--set", "stages.0.mixer=pooling"]) == 2
    error = capsys.readouterr().err
    assert "attention 'gsb' (now 'one_bit'), stages.0.mixer 'conv' (now 'pooling')" in error


def test_starting_from_another_architecture_names_what_differs(config, tmp_path):
    start = train(config(epochs=1, out=str(tmp_path / "start")), quiet=True).last
    differs = r"another stages.0.mixer 'conv' \(now 'pooling'\), norm 'batch' \(now 'layer'\)"
    with pytest.raises(UserError, match=differs):
        train(config(init=str(start), norm="layer", **{"stages.0.mixer": "pooling"}), quiet=True)
