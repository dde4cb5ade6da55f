"""The overrides of a spec: every field is reached, wrong ones are helped with, idle ones refused."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from bhvit.errors import UserError
from bhvit.models import create_model, model_spec
from bhvit.spec.model import ModelSpec, StageSpec
from bhvit.spec.overrides import EVERY_STAGE, MODEL_OVERRIDES, OVERRIDES, check, flatten, known, value_of


def test_every_field_of_a_spec_is_an_argument_or_a_switch():
    arguments = {"name", "img_size", "in_chans", "num_classes", "patch", "stages"}
    assert {field.name for field in dataclasses.fields(ModelSpec)} == arguments | set(MODEL_OVERRIDES)
    assert set(EVERY_STAGE) <= {field.name for field in dataclasses.fields(StageSpec)}


def test_values_take_words_numbers_and_lists():
    for value, widths in [("none", ()), ("both", (3, 5)), (3, (3,)), ([5], (5,)), ([], ()), ((3, 5), (3, 5))]:
        assert check("shifts", value) == widths
    assert check("window", 7) == check("stages.2.window", [7, 7]) == (7, 7)
    for name, value, message in [
        ("shifts", "some", "shifts must be none, 3, 5, both or a list"),
        ("shifts", True, "shifts must be"),
        ("attention", "gbs", "one of decomposition, gsb, one_bit"),
        ("recu", 1, "true or false"),
        ("stages.0.weight_bits", "many", "stages.0.weight_bits must be a whole number"),
        ("window", "wide", "window must be a size"),
        ("window", "9" * 5000, "window must be a size"),
    ]:
        with pytest.raises(UserError, match=message):
            check(name, value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixr", "did you mean mixer"),
        ("weightbits", "did you mean weight_bits"),
        ("atention", "did you mean attention"),
        ("stages.0.mixr", "a stage has no setting 'mixr'; did you mean mixer"),
        ("stages.x.mixer", "written stages.0.mixer"),
        ("stages.01.mixer", "written stages.0.mixer"),
        ("stage.0.mixer", "there is no setting"),
        ("hidden", "stages.0.hidden"),
        ("colour", "known: attention, "),
        ("rcue", "did you mean recu"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one_or_all(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        known(name)


def test_tables_are_dotted_names():
    assert flatten({"a": 1, "stages": {2: {"mixer": "pooling"}}}) == {"a": 1, "stages.2.mixer": "pooling"}


def test_switches_reach_one_stage_or_all_and_the_one_has_the_last_word():
    spec = model_spec("bhvit_nano", mixer="attention", weight_bits=32, stages={1: {"weight_bits": 1, "heads": 4}})
    assert [stage.mixer for stage in spec.stages] == ["attention"] * 3
    assert [stage.weight_bits for stage in spec.stages] == [32, 1, 32]
    assert [stage.heads for stage in spec.stages] == [1, 4, 4]
    assert value_of(spec, "weight_bits") == (32, 1, 32)
    assert value_of(spec, "mixer") == "attention"
    assert value_of(spec, "stages.1.heads") == 4
    deeper: dict[str, Any] = {"stages.1.depth": 1}
    assert model_spec("bhvit_nano", **deeper) == model_spec("bhvit_nano", stages={"1": {"depth": 1}})
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_early_stages_get_heads_and_windows_that_fit():
    spec = model_spec("bhvit_small", mixer="attention")
    assert [stage.heads for stage in spec.stages] == [1, 2, 4, 8]
    assert [spec.window(stage) for stage in range(4)] == [(7, 7)] * 4
    assert [stage.heads for stage in model_spec("bhvit_small", mixer="attention", heads=2).stages] == [2] * 4


def test_pooled_attention_pools_as_the_published_model_does():
    published = model_spec("binaryvit_small")
    spec = model_spec(
        "bhvit_small",
        mixer="pooled_attention",
        attention="one_bit",
        branches="pool",
        stem_activation="none",
        centre_conv_weights=False,
    )
    assert dataclasses.replace(spec, name=published.name) == published
    pooled = model_spec("bhvit_small", img_size=320, mixer="pooled_attention")
    assert [stage.key_pool for stage in pooled.stages] == [10, 5, 4, 1]
    assert json.loads(model_spec("binaryvit_small", mixer="conv").to_json())["stages"][0]["mixer"] == "conv"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"weight_bits": 2}, "stage 0 of bhvit_nano: weight_bits must be 1 or 32, not 2"),
        ({"stages.1.heads": 3}, "stage 1 of bhvit_nano: channels per head"),
        ({"stages.0.channels": 96}, "stage 0 of bhvit_nano: hidden must be a multiple"),
        ({"window": 5}, "window 5x5 does not divide the 4x4 tokens of stage 1"),
        ({"key_pool": 2}, "key_pool has no effect"),
        ({"stages.0.window": 2}, "stages.0.window has no effect"),
        ({"mixer": "conv", "attention": "gsb"}, "attention has no effect"),
        ({"activation_bits": 32, "attention": "gsb"}, "attention has no effect"),
        ({"weight_bits": 32, "recu": True}, "recu has no effect"),
        ({"shifts": "none", "branches": "pool"}, "branches has no effect"),
        ({"stages": (model_spec("bhvit_nano").stages[0],), "downsample": "float"}, "downsample has no effect"),
        ({"stages.3.mixer": "conv"}, "bhvit_nano has stages 0 to 2"),
        ({"shifts": [4]}, "shifts may hold 3 and 5"),
        ({"atention": "gsb"}, "did you mean attention"),
    ],
)
def test_what_cannot_be_or_would_do_nothing_is_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        create_model("bhvit_nano", **overrides)
    assert "\n" not in str(caught.value)


def test_names_are_unique():
    assert len(set(OVERRIDES)) == len(OVERRIDES)
