"""Each mixer's name is known to the spec, to the modules and to the ops alike."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch
from torch import nn

import bhvit
from bhvit.format.program import program
from bhvit.models.mixers import TokenMixer
from bhvit.spec.mixers import MIXER_RULES, Mixer


def test_every_name_has_rules_and_a_module() -> None:
    assert tuple(MIXER_RULES) == typing.get_args(Mixer)
    assert TokenMixer.by_name.keys() == MIXER_RULES.keys()


@pytest.mark.parametrize("name", MIXER_RULES)
def test_a_batch_without_images_has_no_logits(name: Mixer) -> None:
    for task, shape in (("classify", (0, 2)), ("segment", (0, 2, 16, 16))):
        model = bhvit.create_model("bhvit_nano", num_classes=2, img_size=16, mixer=name, task=task).eval()
        with torch.no_grad():
            assert model(torch.zeros(0, 3, 16, 16)).shape == shape


@pytest.mark.parametrize("name", MIXER_RULES)
def test_a_mixer_is_made_from_its_stage_and_says_so(name: Mixer) -> None:
    model: Any = bhvit.create_model("bhvit_nano", num_classes=2, img_size=32, mixer=name)
    for index, (stage, blocks) in enumerate(zip(model.spec.stages, model.stages, strict=True)):
        mixer = blocks[0].mixer
        assert type(mixer) is TokenMixer.by_name[name]
        assert isinstance(mixer, nn.Module)
        assert mixer.stage_fields().keys() == set(MIXER_RULES[name].reads)
        described = {field: getattr(stage, field) for field in MIXER_RULES[name].reads}
        if "window" in described:
            described["window"] = model.spec.window(index)
        assert mixer.stage_fields() == described
    mixers = [op for op in program(model.spec) if op.name.endswith(".mixer")]
    assert {op.kind for op in mixers} == {MIXER_RULES[name].op}
