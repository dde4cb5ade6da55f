"""Costs and `bhvit info`: the published columns come out, and parameters are those of the real models."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bhvit.cost.counts import bytes_by_kind, op_costs, total
from bhvit.format import file as bhv_file
from bhvit.format.program import program
from bhvit.models import create_model, list_models, load_checkpoint, model_spec

# model: binary multiply-accumulates (1e9), full-precision ones (1e6), OPs (1e8), parameters (1e6),
# as published for BHViT at 224x224 with 1000 classes
PUBLISHED = {
    "bhvit_tiny": (2.54, 10.1, 0.50, 13.78),
    "bhvit_small": (4.06, 10.1, 0.74, 22.65),
    "bhvit_tiny_fp": (None, None, 1.26, 13.78),
    "bhvit_small_fp": (None, None, 1.49, 22.64),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_costs_come_out(bhvit, name):
    binary, full, ops, parameters = PUBLISHED[name]
    found = json.loads(bhvit("info", name, "--json").out)
    assert round(found["ops"] / 1e8, 2) == ops
    assert round(found["parameters"] / 1e6, 2) == parameters
    if binary is not None:
        assert round(found["binary_macs"] / 1e9, 2) == binary
        assert round(found["float_macs"] / 1e6, 1) == full


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("settings", [{}, {"shifts": (), "num_classes": 7}, {"shifts": (3,), "in_chans": 1}])
def test_parameters_are_those_of_the_model(name, settings):
    model = create_model(name, **settings)
    cost = total(op_costs(model.spec))
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())


VARIANTS: dict[str, dict[str, Any]] = {
    "gsb": {"attention": "gsb"},
    "layer norm": {"norm": "layer"},
    "pooling branches": {"branches": "pool", "shifts": (3,)},
    "full-precision attention": {"stages": [(1, 1), (1, 1), (32, 32)]},
    "binary weights": {"stages": [(1, 32), (1, 1), (1, 1)]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_variants(variant):
    fields = dict(VARIANTS[variant])
    if "stages" in fields:
        fields["stages"] = tuple(
            dataclasses.replace(stage, weight_bits=weight, activation_bits=activation)
            for stage, (weight, activation) in zip(model_spec("bhvit_nano").stages, fields["stages"], strict=True)
        )
    model = create_model("bhvit_nano", **fields)
    cost = total(op_costs(model.spec))
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.binary_macs + cost.float_macs == sum(
        getattr(total(op_costs(model_spec("bhvit_nano"))), kind) for kind in ("binary_macs", "float_macs")
    )


def test_a_larger_kernel_of_the_stem_is_counted():
    plain, wide = (create_model("bhvit_nano", stem_kernel=kernel) for kernel in (None, 8))
    costs = [total(op_costs(model.spec)) for model in (plain, wide)]
    assert costs[1].parameters == sum(parameter.numel() for parameter in wide.parameters())
    more = 3 * (8 * 8 - 4 * 4) * plain.spec.stages[0].channels
    height, width = plain.spec.grid(0)
    assert costs[1].float_macs - costs[0].float_macs == height * width * more
    assert costs[1].parameters - costs[0].parameters == more
    assert costs[1].binary_macs == costs[0].binary_macs


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("bhvit")])
def test_parts_are_named_as_the_ops_of_the_packed_program(name):
    spec = model_spec(name)
    assert [(cost.name, cost.kind) for cost in op_costs(spec)] == [(op.name, op.kind) for op in program(spec)]


def test_binaryvit_small_has_as_many_parameters_as_published():
    assert round(total(op_costs(model_spec("binaryvit_small"))).parameters / 1e6, 1) == 22.5


def test_the_engine_projects_global_tokens_once():
    counted = total(op_costs(model_spec("bhvit_tiny")))
    # 6 blocks of 4 windows with 4 global tokens of 256 channels: 3 of 4 copies saved in q, k and v.
    # The two blocks on 7x7 tokens have one window.
    assert counted.binary_macs - counted.executed_binary_macs == 6 * 3 * (4 - 1) * 4 * 256 * 256


def test_ops_add_up_to_the_whole(bhvit, material):
    found = json.loads(bhvit("info", material.model, "--json").out)
    for key in ("binary_macs", "float_macs", "ops", "binary_parameters", "float_parameters"):
        assert sum(op[key] for op in found["program"]) == pytest.approx(found[key])


def test_bytes_of_a_file_add_up(bhvit, material):
    file = json.loads(bhvit("info", material.model, "--json").out)["file"]
    assert sum(file["bytes_by_kind"].values()) == file["bytes"] == material.model.stat().st_size
    assert bytes_by_kind(bhv_file.read(material.model))["float16"] == 0


def test_text_shows_classes_sizes_and_ops(bhvit, material):
    answer = bhvit("info", material.model, "--ops")
    assert answer.status == 0
    for text in ("bhvit_nano, 32x32x3, 3 classes", "plain", "OPs (binary / 64 + full precision)", "stages.0.0.mixer"):
        assert text in answer.out


def test_a_folder_for_the_hub_and_the_weights_in_it(bhvit, material, tmp_path):
    load_checkpoint(material.checkpoint).save_pretrained(tmp_path / "mine")
    wanted = json.loads(bhvit("info", material.checkpoint, "--json").out)
    for name in (tmp_path / "mine", tmp_path / "mine" / "model.safetensors"):
        found = json.loads(bhvit("info", name, "--json").out)
        assert {**found, "file": None} == {**wanted, "file": None}


def test_sizes_of_a_named_model(bhvit):
    found = json.loads(bhvit("info", "bhvit_tiny", "--img-size", "192x256", "--num-classes", "10", "--json").out)
    assert (found["img_size"], found["num_classes"]) == ([192, 256], 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bhvit_huge"], "did you mean"),
        (["missing.bhv"], "missing.bhv"),
        (["bhvit_tiny", "--img-size", "100"], "96x96 or 128x128"),
        (["bhvit_tiny", "--img-size", "big"], "HEIGHTxWIDTH"),
    ],
)
def test_what_cannot_be_described_is_refused(refused, words, said):
    assert said in refused("info", *words)


def test_foreign_and_damaged_files_are_refused(refused, material, tmp_path):
    assert "/dev/null is a pipe, socket or device, not a file" in refused("info", "/dev/null")
    foreign = tmp_path / "notes.bhv"
    foreign.write_text("these are notes, not a model")
    assert "notes.bhv: not a .bhv file" in refused("info", foreign)
    cut = tmp_path / "cut.bhv"
    cut.write_bytes(material.model.read_bytes()[:-100])
    assert "cut.bhv: cut short: it has" in refused("info", cut)
    assert "is a folder" in refused("info", tmp_path)
    assert "go with a model's name" in refused("info", material.model, "--img-size", "64")


@pytest.mark.parametrize(("name", "ops"), [("bhvit_tiny", "0.498e8"), ("bhvit_small_fp", "1.49e8")])
def test_ops_are_written_in_the_papers_notation(bhvit, name, ops):
    row = next(line for line in bhvit("info", name).out.splitlines() if "OPs (binary" in line)
    assert row.split()[-1] == ops


def test_a_segmentation_says_what_it_is(bhvit):
    answer = bhvit("info", "road")
    assert answer.out.startswith("bhvit_nano, segmentation, 192x256x3, 2 classes\n")
    assert "192x256 RGB, resized (bicubic), whole, whatever their aspect, mean" in answer.out
    assert json.loads(bhvit("info", "road", "--json").out)["task"] == "segment"
    assert json.loads(bhvit("info", "cifar10", "--json").out)["task"] == "classify"
