"""`bhvit demo`, with the training left out."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from bhvit.models import create_model, save_checkpoint
from helpers.randomise import randomise


@pytest.fixture
def untrained(monkeypatch):
    """Training that only writes a checkpoint with random weights."""

    def train(config, **_):
        from pathlib import Path

        from bhvit.image import Preprocess

        out = Path(config.out)
        model = randomise(create_model("bhvit_nano", num_classes=10))
        model.class_names, model.preprocess = tuple("0123456789"), Preprocess(size=(32, 32), crop=1.0)
        save_checkpoint(model, out / "last.safetensors")
        (out / "config.json").write_text(json.dumps(config.to_dict()))
        return SimpleNamespace(last=out / "last.safetensors")

    monkeypatch.setattr("bhvit.train.train", train)


@pytest.mark.long
def test_a_demo_below_its_bar_is_finished_and_is_status_1(bhvit, untrained, tmp_path):
    out = tmp_path / "demo"
    answer = bhvit("demo", "--out", out, "--epochs", 1)
    assert answer.status == 1
    assert "the demo failed: the packed file is right on" in answer.err
    assert "not on 97%" in answer.err
    for text in ("train --data photos", "classify photos.bhv", "verify runs/photos", str(out / "report.html")):
        assert text in answer.out
    results = json.loads((out / "demo.json").read_text())
    assert results["status"] == "failed"
    with Image.open(out / "samples" / "digit-3.png") as picture:
        assert picture.size == (8, 8)
    assert (out / "report.html").stat().st_size > 10_000

    # A second run needs --force, and then leaves what is not its own alone.
    before = (out / "report.html").read_bytes()
    said = bhvit("demo", "--out", out)
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "--force" in said.err
    assert (out / "report.html").read_bytes() == before
    (out / "mine.txt").write_text("precious")
    assert bhvit("demo", "--out", out, "--force", "--epochs", 1).status == 1
    assert (out / "mine.txt").read_text() == "precious"


def test_a_demo_that_passes_is_status_0(bhvit, untrained, tmp_path, monkeypatch):
    monkeypatch.setattr("bhvit.cli.demo.LEAST_TOP1", 0.0)
    monkeypatch.setattr("bhvit.cli.demo.LEAST_AGREEMENT", 0.0)
    answer = bhvit("demo", "--out", tmp_path / "demo", "--epochs", 1)
    assert answer.status == 0, answer.err
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["status"] == "passed"


def test_folders_of_others_are_never_touched(refused, untrained, tmp_path):
    (tmp_path / "model.bhv").write_text("precious")
    assert "other things" in refused("demo", "--out", tmp_path, "--force")
    assert (tmp_path / "model.bhv").read_text() == "precious"
    assert "is a file" in refused("demo", "--out", tmp_path / "model.bhv")
    assert "cannot write" in refused("demo", "--out", "/dev/null/demo")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bhv"]
