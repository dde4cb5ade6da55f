"""Commands about a segmentation that nobody trained: report, bench, export with verify, and streams of labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from bhvit import Session, UserError
from bhvit.data.masks import open_masked
from bhvit.data.segmentation_metrics import evaluate_masks
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.models import create_model, save_checkpoint
from bhvit.packing import pack
from bhvit.report.masks import MAX_BYTES
from helpers.html_page import HtmlPage
from helpers.masked_images import make
from helpers.random_model import random_model
from helpers.randomise import randomise
from helpers.small_specs import LABELS

NAMES = ("sky", "road", "<b>car</b>")


class Streets(NamedTuple):
    run: Path
    model: Path
    data: Path

    @property
    def checkpoint(self) -> Path:
        return self.run / "best.safetensors"


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Streets:
    root = tmp_path_factory.mktemp("streets")
    data, run = make(root / "data", count=5), root / "run"
    (data / "classes.txt").write_text("\n".join((*NAMES, "unlabelled")))
    run.mkdir()
    model = randomise(create_model("bhvit_nano", num_classes=3, img_size=(16, 32), task="segment"), 0)
    model.class_names, model.preprocess = NAMES, Preprocess(size=(16, 32), crop=1.0)
    save_checkpoint(model.eval(), run / "best.safetensors")
    pack(model, run / "model.bhv", float_storage="float32")
    (run / "config.json").write_text(json.dumps({"data": str(data), "model": "bhvit_nano", "task": "segment"}))
    entries = [
        {
            "epoch": epoch,
            "lr": 1e-3,
            "train_loss": 1 / epoch,
            "train_pixel_accuracy": 0.5,
            "val_loss": 1.0,
            "val_miou": 0.1 * epoch,
            "val_pixel_accuracy": 0.4,
        }
        for epoch in (1, 2)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return Streets(run=run, model=run / "model.bhv", data=data)


def test_a_report_has_classes_overlays_and_the_worst_images(streets, bhvit, tmp_path):
    out = tmp_path / "report.html"
    answer = bhvit("report", streets.run, "--out", out)
    assert answer.status == 0, answer.err
    text = out.read_text(encoding="utf-8")
    page = HtmlPage(text)
    for said in (
        "Mean intersection over union",
        "Pixel accuracy",
        "Confusion matrix of pixels",
        "Lowest mIoU of an image",
        "Evenly chosen",
        "pixel agreement",
        "Milliseconds per image",
        "this model: epoch 2",
        "5 test images, 3 classes",
    ):
        assert said in page.text, said
    assert "<b>car" not in text
    assert not re.search(r"https?:|//[a-z]", re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", text))
    session = Session(streets.model)
    found = evaluate_masks(session.segment, open_masked(streets.data, "test", class_names=NAMES))
    assert f"{found.miou:.2%}" in page.text
    for value in found.per_class:
        assert f"{value:.1%}" in page.text
    pictures = [{name: value or "" for name, value in found.items()} for tag, found in page.tags if tag == "img"]
    assert len(pictures) == 5 + 4  # all five are among the eight worst; four are evenly chosen
    assert all("image, mask, labels, wrong pixels" in picture["alt"] for picture in pictures)
    names = [picture["alt"].partition(":")[0] for picture in pictures]
    assert names[:5] == [f"{index}.jpg" for index in np.argsort(found.per_image, kind="stable")]
    assert sum(len(picture["src"]) for picture in pictures) < MAX_BYTES


def test_a_report_of_a_part_and_no_corruptions(streets, bhvit, refused, tmp_path):
    out = tmp_path / "report.html"
    assert bhvit("report", streets.run, "--out", out, "--limit", 2, "--split", "val").status == 0
    assert "2 validation images" in out.read_text(encoding="utf-8")
    said = refused("report", streets.run, "--out", tmp_path / "x.html", "--corruptions")
    assert "is a segmentation: accuracy on corrupted images is measured of classifiers" in said


def test_bench_times_labels(streets, bhvit):
    words = ("--seconds", 0.05, "--torch", streets.checkpoint, "--profile")
    answer = bhvit("bench", streets.model, *words, "--batch", "1,2", "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert {(one["name"], one["batch"]) for one in found["milliseconds_per_image"]} == {
        (name, batch) for name in ("bhvit", "PyTorch") for batch in (1, 2)
    }
    assert found["profiles"][0]["ops"][-1]["kind"] == "segment"
    assert bhvit("bench", streets.model, *words).status == 0


def test_an_export_is_verified(streets, bhvit, refused, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "streets.onnx"
    assert bhvit("export", streets.model, out).status == 0
    words = ("verify", out, streets.model, "--data", streets.data, "--checkpoint", streets.checkpoint)
    answer = bhvit(*words, "--json")
    assert answer.status == 0, answer
    found = json.loads(answer.out)
    assert found["images"] == 5
    assert found["others"].keys() == {"packed file", "PyTorch"}
    assert found["agreement"] == min(one["agreement"] for one in found["others"].values()) > 0.995
    data = open_masked(streets.data, "test", class_names=NAMES)
    own = evaluate_masks(lambda image: np.zeros((image.height, image.width), np.uint8), data)
    assert found["onnx_miou"] != own.miou
    text = bhvit(*words).out
    assert "pixel agreement with packed file" in text
    assert "mIoU of ONNX Runtime" in text
    model = randomise(create_model("bhvit_nano", num_classes=3, img_size=(16, 32), task="segment"), 1)
    model.class_names, model.preprocess = NAMES, Preprocess(size=(16, 32), crop=1.0)
    pack(model.eval(), tmp_path / "other.bhv")
    other = bhvit("verify", out, tmp_path / "other.bhv", "--data", streets.data)
    assert other.status == 1  # other weights
    assert "FAILED" in other.out
    assert "--unlabelled is for classifiers" in refused(*words, "--unlabelled")


def test_streams_are_labelled(streets, tmp_path):
    session = Session(streets.model)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    for windows in (False, True):
        found = list(session.stream([streets.data / "images" / "test", bad], windows=windows, overlap=0.5, workers=2))
        assert len(found) == 6
        for streamed in found[:5]:
            assert (streamed.classes, streamed.error) == (None, None)
            expected = session.segment(streamed.name, windows=windows, overlap=0.5)
            np.testing.assert_array_equal(streamed.labels, expected)
        assert found[5].labels is None
        assert "bad.jpg" in str(found[5].error)
    with pytest.raises(UserError, match="labels pixels: unknown is for a model that classifies"):
        session.stream(bad, unknown=True)
    with pytest.raises(UserError, match="overlap must be at least 0"):
        session.stream(bad, overlap=1)
    with pytest.raises(UserError, match="classifies images: windows are for a model that labels pixels"):
        Session("cifar10").stream(bad, windows=True)


def test_an_overlay_that_cannot_be_made_is_one_failed_image(tmp_path, bhvit):
    model, pictures, out = tmp_path / "labels.bhv", tmp_path / "pictures", tmp_path / "out"
    bhv_file.write(random_model(LABELS), model)
    pictures.mkdir()
    for name, size in (("a", (70_000, 1)), ("b", (20, 20))):
        Image.new("RGB", size).save(pictures / f"{name}.png")
    answer = bhvit("segment", model, pictures, "--out", out)
    assert answer.status == 2
    assert "a.png: a picture of 70000x1 pixels is too long for a JPEG file" in answer.err
    assert {path.name for path in out.iterdir()} == {"b.png", "b.overlay.jpg"}
    assert bhvit("segment", model, pictures, "--out", out, "--no-overlay", "--resume").status == 0
    assert (out / "a.png").exists()
