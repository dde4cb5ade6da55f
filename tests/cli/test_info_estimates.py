"""What `bhvit info` predicts: the size of the packed file, and energy."""

from __future__ import annotations

import json

import pytest

from bhvit.cost.counts import bytes_by_kind, op_costs, packed_bytes, total
from bhvit.cost.energy import BINARY_WORD, FLOAT_MAC, binary_energy, float32_energy
from bhvit.format import file as bhv_file
from bhvit.format.op_cost import OpCost
from bhvit.image import Preprocess
from bhvit.models import create_model, list_models
from bhvit.packing import packed_model

PACKABLE = [name for name in list_models() if name.startswith("bhvit")]


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("float_storage", ["mixed", "int8", "float16", "float32"])
def test_the_predicted_size_is_that_of_the_packed_file_to_the_byte(name, float_storage):
    model = create_model(name, num_classes=7, img_size=64, in_chans=1).eval()
    packed = packed_model(model, float_storage=float_storage)
    predicted = packed_bytes(bhv_file.describe_spec(model.spec), float_storage)
    assert {kind: predicted[kind] for kind in ("bits", "float32", "float16", "int8")} == bytes_by_kind(packed)
    assert sum(predicted.values()) == len(bhv_file.to_bytes(packed))


def test_class_names_and_preprocessing_count_in_the_predicted_size():
    names, preprocess = ("cat", "dog", "naïve ✓"), Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), crop=0.875)
    model = create_model("bhvit_nano", num_classes=3, shifts=(3,)).eval()
    packed = packed_model(model, names, preprocess)
    predicted = packed_bytes(bhv_file.describe_spec(model.spec, names, preprocess))
    assert sum(predicted.values()) == len(bhv_file.to_bytes(packed))


def test_a_checkpoint_is_predicted_the_size_of_its_packed_file(bhvit, material, tmp_path):
    found = json.loads(bhvit("info", material.checkpoint, "--json").out)
    assert bhvit("pack", material.checkpoint, tmp_path / "m.bhv").status == 0
    assert found["packed"]["bytes"] == (tmp_path / "m.bhv").stat().st_size
    assert found["file"] == {"bytes": material.checkpoint.stat().st_size}
    there = json.loads(bhvit("info", tmp_path / "m.bhv", "--json").out)
    assert there["packed"] == found["packed"]
    assert there["file"]["bytes_by_kind"] == found["packed"]["bytes_by_kind"]
    assert "packed, it would have" in bhvit("info", material.checkpoint).out
    assert "packed, it would have" not in bhvit("info", tmp_path / "m.bhv").out


def test_what_cannot_be_packed_says_so(bhvit, monkeypatch):
    from bhvit.cost import counts as costs
    from bhvit.errors import UserError

    def packed_bytes(described):
        raise UserError("there is no op for that")

    monkeypatch.setattr(costs, "packed_bytes", packed_bytes)
    assert "packed size: none; there is no op for that" in bhvit("info", "bhvit_nano").out
    assert json.loads(bhvit("info", "bhvit_nano", "--json").out)["packed"] is None


def test_energy_by_hand():
    assert pytest.approx(4.6) == FLOAT_MAC
    assert pytest.approx(0.58) == BINARY_WORD
    cost = OpCost(name="x", kind="x", binary_macs=6400, float_macs=10, binary_parameters=320, float_parameters=5)
    # 100 words of 64, 10 float products; 10 words of weights and 5 numbers. In picojoules:
    assert binary_energy(cost).arithmetic == pytest.approx((100 * 0.58 + 10 * 4.6) * 1e-12)
    assert binary_energy(cost).weights == pytest.approx((10 + 5) * 640e-12)
    assert float32_energy(cost).arithmetic == pytest.approx(6410 * 4.6e-12)
    assert float32_energy(cost).weights == pytest.approx(325 * 640e-12)
    assert float32_energy(cost).total == pytest.approx((6410 * 4.6 + 325 * 640) * 1e-12)


def test_energy_is_shown_with_its_source(bhvit):
    found = json.loads(bhvit("info", "bhvit_tiny", "--json").out)["energy"]
    # 2.54 G binary and 10.15 M full-precision products: 2.54e9 / 64 * 0.58 pJ + 10.15e6 * 4.6 pJ
    assert found["joules"]["arithmetic"] == pytest.approx(69.7e-6, rel=1e-2)
    assert found["joules_float32"]["arithmetic"] == pytest.approx(11.7e-3, rel=1e-2)
    assert found["joules"]["total"] == pytest.approx(found["joules"]["arithmetic"] + found["joules"]["weights"])
    assert "Horowitz" in found["source"]
    text = bhvit("info", "bhvit_tiny").out
    for part in ("Horowitz, ISSCC 2014", "estimated", "69.7 µJ", "11.7 mJ"):
        assert part in text


def test_switches_of_a_named_model(bhvit, refused, material):
    found = json.loads(
        bhvit("info", "bhvit_nano", "--set", "downsample=float", "--set", "stages.0.depth=1", "--json").out
    )
    names = [op["name"] for op in found["program"]]
    assert "stages.0.1.mlp" not in names
    assert {op["kind"] for op in found["program"]} >= {"downsample_float"}
    assert "did you mean norm" in refused("info", "bhvit_nano", "--set", "nrom=layer")
    assert "key=value" in refused("info", "bhvit_nano", "--set", "norm")
    assert "go with a model's name" in refused("info", material.checkpoint, "--set", "norm=layer")


@pytest.mark.parametrize(
    "overrides",
    [
        {"mixer": "attention"},
        {"mixer": "pooling"},
        {"mixer": "pooled_attention", "attention": "one_bit"},
        {"mixer": "pooled_attention", "key_pool": 2},
        {"weight_bits": 32},
        {"activation_bits": 32, "norm": "layer"},
        {"stages.0.weight_bits": 32, "stages.2.activation_bits": 32, "shifts": "none", "downsample": "float"},
    ],
)
def test_parameters_of_ablations_are_those_of_the_model(overrides):
    model = create_model("bhvit_nano", **overrides)
    assert total(op_costs(model.spec)).parameters == sum(parameter.numel() for parameter in model.parameters())
