"""`bhvit calibrate`, and `classify --unknown` of what it writes."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import Session, load_checkpoint, pack
from bhvit.calibration import auroc, scores
from bhvit.data.corruptions import CORRUPTIONS
from bhvit.format import file as bhv_file
from bhvit.verification import predictors


@pytest.fixture
def calibrated(bhvit, material, tmp_path):
    out = tmp_path / "calibrated.bhv"
    answer = bhvit("calibrate", material.model, "--data", material.images, "--split", "all", "--out", out)
    assert (answer.status, answer.err) == (0, "")
    assert "18 images of the split all" in answer.out
    assert "few images" in answer.out
    return out


def test_the_file_is_the_same_but_for_its_calibration(material, calibrated):
    before, after = bhv_file.read(material.model), bhv_file.read(calibrated)
    assert before.calibration is None
    assert after.calibration is not None
    assert after.tensors.keys() == before.tensors.keys()
    assert all((after.tensors[name] == tensor).all() for name, tensor in before.tensors.items())
    picture = next(material.images.rglob("*.png"))
    plain, session = Session(material.model), Session(calibrated)
    image = plain.preprocess(picture)
    assert (session(image) == plain(image)).all()
    assert session.calibration == after.calibration
    odds = np.exp(plain(image)[0].astype(np.float64) / after.calibration.temperature)
    assert session.probabilities(plain(image))[0] == pytest.approx(odds / odds.sum())
    assert max(p for _, p in session.classify(picture)) == session.probabilities(plain(image)).max()


def test_a_file_is_calibrated_in_place(bhvit, material, tmp_path):
    model = shutil.copy(material.model, tmp_path / "model.bhv")
    found = json.loads(bhvit("calibrate", model, "--data", material.images, "--json", "--score", "max_logit").out)
    assert found["model"] == str(model)
    assert found["split"] == "validation"
    assert found["after"]["cross_entropy"] <= found["before"]["cross_entropy"]
    session = Session(model)
    assert session.calibration is not None
    assert session.calibration.score == "max_logit"
    again = json.loads(bhvit("eval", model, "--data", material.images, "--split", "validation", "--json").out)
    assert again["calibrated"] == found["after"]
    assert again["cross_entropy"] == found["before"]["cross_entropy"]
    assert "with temperature" in bhvit("eval", model, "--data", material.images).out
    assert f"temperature {session.calibration.temperature:g}" in bhvit("info", model).out
    assert "not calibrated" in bhvit("info", material.model).out


def test_a_checkpoint_is_calibrated_and_packs_so(bhvit, material, tmp_path):
    out = tmp_path / "out.safetensors"
    assert bhvit("calibrate", material.checkpoint, "--data", material.images, "--out", out).status == 0
    model = load_checkpoint(out)
    assert model.calibration is not None
    pack(model, tmp_path / "packed.bhv")
    assert bhv_file.read(tmp_path / "packed.bhv").calibration == model.calibration
    model.save_pretrained(tmp_path / "folder")
    assert type(model).from_pretrained(tmp_path / "folder").calibration == model.calibration
    model.reset_classifier(4)
    assert model.calibration is None


def test_unknown_images_are_said(bhvit, material, calibrated):
    session = Session(calibrated)
    pictures = sorted(material.images.rglob("*.png"))
    logits = np.concatenate([session(session.preprocess(picture)) for picture in pictures])
    expected = session.unknown(logits, 0.3)
    assert 0 < expected.sum() < len(pictures)
    answers = json.loads(
        bhvit("classify", calibrated, material.images, "--json", "--unknown", "--miss-rate", "0.3").out
    )
    assert [answer["unknown"] for answer in answers] == expected.tolist()
    assert all(len(answer["classes"]) == 3 for answer in answers)
    in_python = session.classify(pictures, unknown=True, miss_rate=0.3)
    assert [not answer for answer in in_python] == expected.tolist()
    text = bhvit("classify", calibrated, material.images, "--unknown", "--miss-rate", "1").out
    assert text.count("unknown: unlike the images that the model knows") == len(pictures) - 1  # the best score is known


def test_mistakes_are_one_line(refused, material, calibrated, tmp_path):
    data = ("--data", material.images)
    assert "is a bundled model" in refused("calibrate", "cifar10", *data)
    assert "exists" in refused("calibrate", material.model, *data, "--out", calibrated)
    assert "must end in .bhv" in refused("calibrate", material.model, *data, "--out", tmp_path / "a.safetensors")
    assert "absent" in refused("calibrate", "absent.bhv", *data)
    assert "absent" in refused("calibrate", material.model, "--data", "absent")
    assert "energy" in refused("calibrate", material.model, *data, "--score", "entropy")
    picture = next(material.images.rglob("*.png"))
    assert "bhvit calibrate" in refused("classify", material.model, picture, "--unknown")
    assert "fraction" in refused("classify", calibrated, picture, "--unknown", "--miss-rate", "5")
    assert "fraction" in refused("classify", calibrated, picture, "--unknown", "--miss-rate", "five")


def test_unknown_data_is_measured(bhvit, refused, material, calibrated, tmp_path):
    strange = tmp_path / "strange"
    strange.mkdir()
    for value in (0, 255):
        Image.new("RGB", (40, 40), (value, value, value)).save(strange / f"{value}.png")
    (strange / "bad.png").write_bytes(b"\x89PNG")
    data = ("--data", material.images, "--split", "all", "--unknown-data", strange)
    answer = bhvit("eval", calibrated, *data, "--json")
    assert "skipped" in answer.err
    found = json.loads(answer.out)["unknown"]
    session = Session(calibrated)
    known, unknown = (
        session(np.concatenate([session.preprocess(path) for path in sorted(folder.rglob("[0-9]*.png"))]))
        for folder in (material.images, strange)
    )
    assert (found["images"], found["score"]) == (2, "energy")
    assert found["auroc"] == auroc(scores(known, "energy"), scores(unknown, "energy"))
    assert found["missed"] == session.unknown(known).mean()
    assert found["found"] == session.unknown(unknown).mean()
    assert "2 unknown images: AUROC" in bhvit("eval", calibrated, *data).out
    plain = json.loads(bhvit("eval", material.model, *data, "--json").out)["unknown"]
    assert plain["auroc"] == found["auroc"]
    assert "found" not in plain
    assert "bad.png" in refused("eval", calibrated, *data, "--strict")
    assert "absent" in refused("eval", calibrated, "--data", material.images, "--unknown-data", "absent")


@pytest.fixture
def overflowing(material, tmp_path):
    """A model whose weights are finite, and whose logits are not."""
    file = bhv_file.read(material.model)
    large = {
        name: np.full_like(tensor, 2.0**99) if name.startswith("head.") and tensor.dtype == np.float32 else tensor
        for name, tensor in file.tensors.items()
    }
    bhv_file.write(dataclasses.replace(file, tensors=large), tmp_path / "overflowing.bhv")
    return tmp_path / "overflowing.bhv"


def test_outputs_that_are_not_finite_are_refused_by_every_command(refused, material, calibrated, overflowing, tmp_path):
    before, picture = overflowing.read_bytes(), next(material.images.rglob("*.png"))
    data = ("--data", material.images, "--split", "all")
    for words in (
        ("calibrate", overflowing, *data),
        ("calibrate", overflowing, *data, "--out", tmp_path / "out.bhv"),
        ("eval", overflowing, *data),
        ("eval", overflowing, *data, "--unknown-data", material.images),
        ("explain", overflowing, picture, "--out", tmp_path / "why"),
    ):
        assert re.search("not finite|NaN or infinity", refused(*words)), words
    assert overflowing.read_bytes() == before
    assert not (tmp_path / "out.bhv").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unknown_data_with_outputs_that_are_not_finite_is_refused(refused, material, tmp_path, monkeypatch, value):
    opened = predictors.open_model

    def open_model(*arguments):
        model = opened(*arguments)

        def predict(images):
            plain = images.std(axis=(2, 3)).max(axis=1) < 1e-3  # the strange ones, of one colour
            return np.where(plain[:, None], np.float32(value), model.predict(images))

        return model._replace(predict=predict)

    monkeypatch.setattr(predictors, "open_model", open_model)
    strange = tmp_path / "strange"
    strange.mkdir()
    Image.new("L", (40, 40), 7).save(strange / "0.png")
    said = refused("eval", material.model, "--data", material.images, "--split", "all", "--unknown-data", strange)
    assert f"not finite for pictures of --unknown-data {strange}" in said


def test_corruptions_are_measured(bhvit, refused, material):
    data = ("--data", material.images, "--split", "all", "--corruptions", "--limit", 4)
    found = json.loads(bhvit("eval", material.model, *data, "--json").out)
    assert found["images"] == found["corruptions"]["images"] == 4
    assert list(found["corruptions"]["accuracy"]) == list(CORRUPTIONS)
    assert found["corruptions"]["clean"] == found["top1"]
    assert "pixelate" in bhvit("eval", material.model, *data).out
    assert "whole number" in refused("eval", material.model, *data[:-1], 0)


def test_a_session_refuses_what_means_nothing(material, calibrated):
    session, plain = Session(calibrated), Session(material.model)
    logits = np.zeros((2, 3), np.float32)
    wrong: Any
    for wrong in (np.zeros(3, np.float32), np.zeros((2, 4), np.float32), [[0.0, 1.0, 2.0]]):
        for call in (session.probabilities, session.unknown, session.likeliest):
            with pytest.raises(ValueError, match=r"logits must be an array \(B, 3\)"):
                call(wrong)
    with pytest.raises(ValueError, match="a miss rate is"):
        session.classify([], unknown=True, miss_rate=2)
    with pytest.raises(ValueError, match="bhvit calibrate"):
        plain.unknown(logits)
    assert plain.calibration is None
    assert (plain.probabilities(logits) == 1 / 3).all()


def test_calibrating_again_gives_the_same_file(bhvit, material, calibrated, tmp_path):
    again = tmp_path / "again.bhv"
    assert bhvit("calibrate", calibrated, "--data", material.images, "--split", "all", "--out", again).status == 0
    assert again.read_bytes() == calibrated.read_bytes()
