"""`bhvit classify`."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from bhvit import Session
from bhvit.format import file as bhv_file
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_model


def test_answers_are_those_of_the_session(bhvit, material):
    pictures = sorted(material.images.rglob("*.png"))
    answers = json.loads(bhvit("classify", material.model, material.images, "--top", 2, "--json").out)
    session = Session(material.model)
    assert [answer["image"] for answer in answers] == [str(picture) for picture in pictures]
    for answer in answers:
        expected = session.classify(answer["image"], top=2)
        assert [(c["name"], c["probability"]) for c in answer["classes"]] == expected


def test_text_names_image_and_classes(bhvit, material):
    picture = next(material.images.rglob("*.png"))
    answer = bhvit("classify", material.model, picture, "--threads", 2, "--isa", "scalar")
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert lines[0] == str(picture)
    assert len(lines) == 1 + 3
    assert all(" %  " in line for line in lines[1:])


def test_a_damaged_image_is_named_and_the_others_answered(bhvit, material, tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (50, 50)).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    (tmp_path / "c.txt").write_text("not an image, and not taken for one")
    answer = bhvit("classify", material.model, tmp_path)
    assert answer.status == 2
    assert str(good) in answer.out
    assert str(bad) in answer.err
    assert "1 of 2 images" in answer.err
    answers = json.loads(bhvit("classify", material.model, bad, good, "--json").out)
    assert [("error" in a, "classes" in a) for a in answers] == [(True, False), (False, True)]


def test_strict_stops_at_a_damaged_image(bhvit, material, tmp_path):
    bad = tmp_path / "b.png"
    bad.write_bytes(b"\x89PNG")
    answer = bhvit("classify", material.model, bad, next(material.images.rglob("*.png")), "--strict")
    assert (answer.status, answer.out) == (2, "")
    assert str(bad) in answer.err


@pytest.mark.parametrize(
    ("model", "image", "said"),
    [
        ("{model}", "absent.png", "absent.png"),
        ("absent.bhv", "{images}", "absent.bhv"),
        ("{checkpoint}", "{images}", "bhvit pack"),
        ("{model}", "{empty}", "holds no images"),
    ],
)
def test_what_is_missing_or_foreign_is_refused(refused, material, tmp_path, model, image, said):
    known = {**material._asdict(), "empty": tmp_path}
    assert said in refused("classify", model.format(**known), image.format(**known))


def test_options_that_this_machine_lacks_are_refused(refused, material):
    assert "sse9" in refused("classify", material.model, material.images, "--isa", "sse9")
    assert "256" in refused("classify", material.model, material.images, "--threads", "9999")


def test_threads_and_memory(bhvit, refused, material, tmp_path):
    expected = bhvit("classify", material.model, material.images, "--json").out
    for options in (("--threads", "auto"), ("--threads", "0"), ("--max-memory", "64")):
        assert bhvit("classify", material.model, material.images, "--json", *options).out == expected
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    spec = ModelSpec(name="wide", img_size=(256, 256), patch=2, num_classes=2, stages=(stage,))
    bhv_file.write(random_model(spec), tmp_path / "wide.bhv")
    said = refused("classify", tmp_path / "wide.bhv", material.images, "--max-memory", "1")
    assert "wide.bhv: needs" in said
    assert "max_memory" in said


@pytest.mark.parametrize("name", ["two\nlines.png", "colour\x1b[31m.png", "bell\x07.png"])
def test_a_damaged_image_with_control_characters_in_its_name_is_named_once(bhvit, tmp_path, name):
    (tmp_path / name).write_bytes(b"no image")
    for source in (tmp_path, tmp_path / name):
        answer = bhvit("classify", "cifar10", source)
        assert answer.status == 2
        assert answer.err.count(str(tmp_path)) == 1
        assert answer.err.count("\n") == 1
        assert answer.err[:-1].isprintable()
