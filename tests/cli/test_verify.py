"""`bhvit verify` and `bhvit bench`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bhvit import timing
from bhvit._native import available_isas
from bhvit.format import file as bhv_file
from bhvit.models import load_checkpoint
from bhvit.verification import compare


@pytest.mark.parametrize("isa", available_isas())
def test_a_packed_file_answers_as_its_checkpoint(bhvit, material, isa):
    answer = bhvit("verify", material.checkpoint, material.model, "--data", material.images, "--split", "all",
                   "--isa", isa, "--json", "--trace", 2)  # fmt: skip
    found = json.loads(answer.out)
    assert answer.status == 0
    assert found["passed"]
    assert found["images"] == 18
    assert found["agreement"] == 1
    assert found["torch_top1"] == found["native_top1"]
    assert found["native_equals_reference"]
    assert [op["name"] for op in found["ops"]] == [op.name for op in bhv_file.read(material.model).ops]
    assert found["ops"][0]["largest"] < 1e-5


def test_text_says_what_was_compared(bhvit, material):
    answer = bhvit("verify", material.checkpoint, material.model, "--data", material.images, "--limit", 3, "--ops")
    assert answer.status == 0
    for text in ("top-1 agreement", "(3 of 3 images)", "equal, bit for bit", "stages.0.0.mixer", "passed"):
        assert text in answer.out


def test_another_models_file_is_status_1(bhvit, material):
    answer = bhvit("verify", material.run / "other.safetensors", material.model, "--data", material.images,
                   "--split", "all", "--trace", 1)  # fmt: skip
    assert answer.status == 1
    assert "FAILED" in answer.out
    assert "up to op stem" in answer.out


def test_an_engine_that_differs_from_the_reference_is_status_1(bhvit, material, monkeypatch):
    exact = compare.reference.trace

    def wrong(model, image):
        for name, x in exact(model, image):
            yield name, np.nextafter(x, np.float32(np.inf)) if name == "stages.1.0.mixer" else x

    monkeypatch.setattr(compare.reference, "trace", wrong)
    answer = bhvit("verify", material.checkpoint, material.model, "--data", material.images, "--trace", 1)
    assert answer.status == 1
    assert "DIFFER, first after op stages.1.0.mixer" in answer.out


def test_files_that_do_not_belong_together_are_refused(refused, material, tmp_path):
    from bhvit.models import create_model
    from bhvit.packing import pack
    from helpers.randomise import randomise

    target = tmp_path / "wide.bhv"
    names = bhv_file.read(material.model).class_names
    pack(randomise(create_model("bhvit_nano", num_classes=3, img_size=64)), target, class_names=names)
    said = refused("verify", material.checkpoint, target, "--data", material.images)
    assert "was not packed from" in said
    assert "absent" in refused("verify", material.checkpoint, material.model, "--data", tmp_path / "absent")
    assert "nosplit" in refused("verify", material.checkpoint, material.model, "--data", "digits", "--split", "nosplit")
    assert "digits has classes" in refused("verify", material.checkpoint, material.model, "--data", "digits")


def test_pictures_of_other_classes_do_to_compare_answers(bhvit, material):
    words = ("verify", material.checkpoint, material.model, "--data", "digits", "--unlabelled", "--limit", "9")
    found = json.loads(bhvit(*words, "--json").out)
    assert (found["images"], found["torch_top1"], found["passed"]) == (9, None, True)
    assert sum(op["decisions"] for op in found["flips"]) > 0
    assert "not measured" in bhvit(*words).out


def test_a_file_of_other_weights_is_found_out(bhvit, material, tmp_path):
    from bhvit.models import create_model
    from bhvit.packing import pack
    from helpers.randomise import randomise

    spec = load_checkpoint(material.checkpoint).spec
    other = tmp_path / "other.bhv"
    model = randomise(create_model("bhvit_nano", num_classes=spec.num_classes, img_size=spec.img_size), seed=99)
    pack(model, other, class_names=bhv_file.read(material.model).class_names)
    answer = bhvit("verify", material.checkpoint, other, "--data", material.images, "--threshold", "0")
    assert answer.status == 1
    assert "DIFFER in stem by more than flipped signs explain" in answer.out


def test_bench_times_every_combination_beside_pytorch(bhvit, material):
    answer = bhvit("bench", material.model, "--threads", "1", "--batch", "1,3", "--isa", "all", "--seconds", "0.01",
                   "--torch", material.checkpoint, "--json")  # fmt: skip
    rows = json.loads(answer.out)["milliseconds_per_image"]
    native = {(row["isa"], row["threads"], row["batch"]) for row in rows if row["name"] == "bhvit"}
    assert native == {(isa, 1, batch) for isa in available_isas() for batch in (1, 3)}
    assert {(row["threads"], row["batch"]) for row in rows if row["name"] == "PyTorch"} == {
        (1, 1),
        (1, 3),
    }
    assert all(0 < row["p10"] <= row["median"] <= row["p90"] for row in rows)


def test_the_profile_accounts_for_the_whole_call(bhvit, material):
    answer = bhvit("bench", material.model, "--seconds", "0.05", "--profile", "--json")
    (profile,) = json.loads(answer.out)["profiles"]
    parts = sum(op["microseconds"] for op in profile["ops"])
    assert parts + profile["outside"] == pytest.approx(profile["microseconds"])
    assert sum(op["share"] for op in profile["ops"]) == pytest.approx(parts / profile["microseconds"])
    text = bhvit("bench", material.model, "--seconds", "0.01", "--profile").out
    assert "the whole call" in text
    assert "milliseconds an image" in text


def test_bench_refuses_what_is_not_there(refused, material, tmp_path):
    assert "absent.bhv" in refused("bench", tmp_path / "absent.bhv")
    assert "sse9" in refused("bench", material.model, "--isa", "sse9")
    assert "--isa all stands alone" in refused("bench", material.model, "--isa", "all,avx2")
    assert "packaged models: cifar10" in refused("bench", "cifar11")
    assert "packaged models: cifar10" in refused("bench", material.model, "--torch", "cifar11")
    assert "no checkpoint" in refused("bench", material.model, "--torch", tmp_path / "absent.safetensors")


def test_turns_alternate_and_discard_the_first_call():
    seen: list[str] = []
    runs = [
        timing.Run(
            name=name, isa="", threads=1, batch=2, call=lambda: None, prepare=lambda name=name: seen.append(name)
        )
        for name in "ab"
    ]
    first, _ = timing.measure(runs, seconds=0.0)
    assert seen == ["a", "b"] * (1 + timing.LEAST_BLOCKS)
    assert first.calls >= timing.LEAST_BLOCKS * timing.LEAST_CALLS


def test_a_busy_machine_is_noticed():
    row = timing.Timing(name="", isa="", threads=1, batch=1, calls=9, median=2.0, p10=1.0, p90=2.9, cpu=1.0)
    assert not timing.busy([row])
    assert timing.busy([row, timing.Timing(**{**vars(row), "p90": 3.1})])
    assert timing.busy([row, timing.Timing(**{**vars(row), "cpu": 0.6})])
