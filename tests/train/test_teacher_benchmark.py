"""The teacher of the benchmarks: it goes on where it was interrupted, and leaves outputs to learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bhvit.train import TrainConfig, train
from helpers.images import class_folders

ROOT = Path(__file__).parents[2]


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.accuracy import teacher

    return teacher


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    class_folders(tmp_path / "photos" / "train", count=20)
    class_folders(tmp_path / "photos" / "test", count=5, first=50)
    return tmp_path / "photos"


def _run(teacher: Any, monkeypatch: pytest.MonkeyPatch, photos: Path, out: Path) -> None:
    sizes = ["--img-size", "16", "--widths", "8", "16", "--batch-size", "8", "--epochs", "4"]
    monkeypatch.setattr("sys.argv", ["teacher", "--data", str(photos), "--out", str(out), *sizes])
    teacher.main()


def test_its_outputs_are_of_each_image_and_its_mirror_image(
    teacher: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "teacher"
    _run(teacher, monkeypatch, photos, out)
    with np.load(out / "outputs.npz") as file:
        logits, labels = file["logits"], file["labels"]
    assert (logits.shape, logits.dtype) == ((36, 2, 2), np.float16)
    assert np.bincount(labels).tolist() == [18, 18]  # the others are for validation
    assert (logits[:, 0] != logits[:, 1]).any(axis=1).all()
    result = json.loads((out / "result.json").read_text())
    assert result["test_images"] == 10
    assert result["training_top1"] == pytest.approx((logits[:, 0].argmax(axis=1) == labels).mean())
    assert result["training_top1"] > 0.8  # classes differ in their colour
    learned = train(
        TrainConfig.from_dict(
            {
                "data": str(photos),
                "model": "bhvit_nano",
                "img_size": 16,
                "patch": 2,
                "epochs": 1,
                "batch_size": 20,
                "teacher": str(out / "outputs.npz"),
                "out": str(tmp_path / "student"),
            }
        ),
        quiet=True,
    )
    assert learned.log[0]["train_loss"] > 0


def test_an_interrupted_run_ends_with_the_same_outputs(
    teacher: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(teacher, monkeypatch, photos, tmp_path / "whole")
    epochs, real = [], teacher.train_epoch

    def interrupted(*arguments: Any) -> float:
        epochs.append(arguments[-1])
        if len(epochs) == 3:
            raise KeyboardInterrupt
        loss: float = real(*arguments)
        return loss

    monkeypatch.setattr(teacher, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(teacher, monkeypatch, photos, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "outputs.npz").exists()
    _run(teacher, monkeypatch, photos, tmp_path / "stopped")
    assert epochs == [0, 1, 2, 2, 3]
    whole, stopped = (np.load(tmp_path / name / "outputs.npz")["logits"] for name in ("whole", "stopped"))
    np.testing.assert_array_equal(whole, stopped)


def test_the_first_layer_whitens(teacher: Any) -> None:
    pixels = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = pixels + pixels.mean(dim=1, keepdim=True)  # channels that go together
    layer = teacher.Whitening(3)
    layer.measure(pixels)
    out = torch.nn.functional.conv2d(pixels, layer.weight).permute(0, 2, 3, 1).flatten(0, 2)
    half = out.shape[1] // 2
    torch.testing.assert_close(torch.cov(out[:, :half].T), torch.eye(half), atol=0.02, rtol=0)
    torch.testing.assert_close(out[:, half:], -out[:, :half])


def test_images_are_mirrored_as_a_whole(teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.int64))
    pixels = torch.arange(2 * 6 * 6 * 3, dtype=torch.uint8).reshape(2, 6, 6, 3)
    found = teacher.moved(pixels, torch.tensor([False, True]), torch.Generator())
    assert torch.equal(found[0], pixels[0])
    assert torch.equal(found[1], pixels[1].flip(1))
