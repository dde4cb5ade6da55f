"""The comparison of segmentations, on a handful of images: trained stage by stage, resumed, measured, drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.masked_images import make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs a module of the comparison with arguments."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.segmentation import measure, rows, train

    data = make(tmp_path / "streets", count=4)
    small = {"img_size": [16, 32], "batch_size": 4, "workers": 0}
    monkeypatch.setattr(rows, "STAGES", {"small": small, "full": {**small, "img_size": [32, 32]}})

    def run(name: str, *words: str) -> None:
        common = ["--data", str(data), "--runs", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"benchmarks/segmentation/{name}.py"), *common, *words])
        {"train": train, "measure": measure}[name].main()

    return run


def test_rows_are_trained_measured_and_drawn(comparison, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):  # nothing is trained
        comparison("measure")
    comparison("train", "--epochs", "0.01", "--rows", "scratch", "--set", json.dumps({"lr": 1e-3}))
    runs = tmp_path / "runs"
    done = {path.name: (path / "last.safetensors").stat().st_mtime_ns for path in runs.iterdir()}
    assert done.keys() == {"scratch-s0-small", "scratch-s0-full"}
    settings = json.loads((runs / "scratch-s0-full" / "config.json").read_text())
    assert settings["init"] == str(runs / "scratch-s0-small" / "last.safetensors")
    comparison("train", "--epochs", "0.01", "--rows", "scratch")  # nothing is left to do
    assert done == {path.name: (path / "last.safetensors").stat().st_mtime_ns for path in runs.iterdir()}
    page, figure = tmp_path / "page.md", tmp_path / "figure.jpg"
    comparison("measure", "--page", str(page), "--figure", str(figure))
    text = page.read_text()
    for said in (
        "| binary, from scratch | bhvit, ",
        "1 of 1 + 1 of 1",
        "Not run: the same in full precision (`twin`); binary, from the bundled classifier `cifar10` (`cifar10`)",
        "Fewer than three seeds: binary, from scratch.",
    ):
        assert said in text, said
    with Image.open(figure) as drawn:
        assert drawn.size == (2 * 8, 3 * 6)  # two images of four; image, mask and labels


def test_backbones_are_those_that_are_bundled(comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.segmentation import rows

    from bhvit import bundled

    (first, second) = rows.stages(["cifar10"], [3])
    config = first.config("streets", tmp_path)
    assert config.init == str(bundled.find("cifar10", ".safetensors"))
    assert (config.seed, config.model, config.epochs) == (3, "bhvit_nano", rows.EPOCHS["small"])
    assert second.config("streets", tmp_path, 0.5).epochs == rows.EPOCHS["full"] // 2
    monkeypatch.setattr(bundled, "list_bundled", list)
    assert rows.stages(["cifar10", "twin"], [0, 1]) == rows.stages(["twin"], [0, 1])


@pytest.mark.slow
def test_another_network_is_trained_and_exported(comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from benchmarks.segmentation import measure

    monkeypatch.setattr(measure, "TURNS", 1)
    comparison("train", "--epochs", "0.01", "--rows", "lraspp")
    comparison("train", "--epochs", "0.01", "--rows", "lraspp")  # nothing is left to do
    assert len((tmp_path / "runs" / "lraspp-s0-full" / "log.jsonl").read_text().splitlines()) == 1
    page = tmp_path / "page.md"
    comparison("measure", "--page", str(page), "--figure", str(tmp_path / "figure.jpg"))
    assert "ONNX Runtime, float32" in page.read_text()
    assert "ONNX Runtime, int8" in page.read_text()


@pytest.mark.long
def test_an_interrupted_stage_goes_on(comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.segmentation import rows

    monkeypatch.setattr(rows, "EPOCHS", {"small": 2, "full": 1})
    from bhvit.train import loop

    real, calls = loop._Run._step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 4:  # in the second epoch of the first stage
            raise RuntimeError("killed")
        return real(*arguments)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(RuntimeError, match="killed"):
        comparison("train", "--rows", "narrow")
    assert not (tmp_path / "runs" / "narrow-s0-full").exists()
    comparison("train", "--rows", "narrow")
    for stage, epochs in (("small", 2), ("full", 1)):
        assert len((tmp_path / "runs" / f"narrow-s0-{stage}" / "log.jsonl").read_text().splitlines()) == epochs


def test_a_road_model_is_bundled_only_if_it_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.segmentation import package

    from bhvit import Session
    from bhvit.train import TrainConfig, load_recipe, train

    data = make(tmp_path / "streets", count=4)
    settings = {"data": str(data), "img_size": (16, 32), "batch_size": 4, "epochs": 1, "workers": 0, "threads": 1}
    run = tmp_path / "run"
    train(TrainConfig.from_dict({**load_recipe("road"), **settings, "out": str(run)}), quiet=True)
    words = ["--run", str(run), "--data", str(data), "--folder", str(tmp_path), "--history", "bhvit train"]
    monkeypatch.setattr(sys, "argv", ["package.py", *words])
    with pytest.raises(SystemExit, match="not bundled"):
        package.main()
    assert not (tmp_path / "road.bhv").exists()
    monkeypatch.setattr(package, "LEAST", 0.0)
    package.main()
    assert Session(tmp_path / "road.bhv").class_names == ("other", "road")
    card = (tmp_path / "road.md").read_text()
    assert "Not for commercial use" in card
    assert "1. `bhvit train`" in card
