"""`bhvit verify` and `bhvit bench`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bhvit._native import available_isas
from bhvit.format import file as bhv_file
from bhvit.models import load_checkpoint
from bhvit.runtime import reference


@pytest.mark.parametrize("isa", available_isas())
def test_a_packed_file_answers_as_its_checkpoint(bhvit, material, isa):
    options = f"--split all --isa {isa} --trace 2 --json".split()
    answer = bhvit("verify", material.checkpoint, material.model, "--data", material.images, *options)
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
    checkpoint, options = material.run / "other.safetensors", "--split all --trace 1".split()
    answer = bhvit("verify", checkpoint, material.model, "--data", material.images, *options)
    assert answer.status == 1
    assert "FAILED" in answer.out
    assert "up to op stem" in answer.out


def test_answers_that_rounding_decides_are_said_to_be_so(bhvit, material, monkeypatch):
    from bhvit.verification.compare import Comparison

    words = ("verify", material.checkpoint, material.model, "--data", material.images, "--trace", 1)
    monkeypatch.setattr(Comparison, "agreement", property(lambda found: 0.98765), raising=False)
    answer = bhvit(*words)
    assert answer.status == 1
    assert "FAILED (wanted: 99.5 % agreement" in answer.out
    assert "in PyTorch's float32, too; --threshold 98.7 accepts it" in answer.out
    assert bhvit(*words, "--threshold", 98.7).status == 0
    other = material.run / "other.safetensors"
    assert "accepts it" not in bhvit("verify", other, material.model, "--data", material.images, "--trace", 1).out


def test_an_engine_that_differs_from_the_reference_is_status_1(bhvit, material, monkeypatch):
    exact = reference.trace

    def wrong(model, image):
        for name, x in exact(model, image):
            yield name, np.nextafter(x, np.float32(np.inf)) if name == "stages.1.0.mixer" else x

    monkeypatch.setattr(reference, "trace", wrong)
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
