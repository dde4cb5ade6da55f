"""Which images choose `best`: a validation split, or some held out of training, and never test images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit.train import TrainConfig, train
from bhvit.train.context import RunContext
from bhvit.train.distributed import Processes
from bhvit.train.run_data import RunData, open_run_data
from helpers.images import shard, zipped


def _opened(config: TrainConfig) -> RunData:
    import torch

    return open_run_data(config, RunContext(device=torch.device("cpu"), processes=Processes(), quiet=True))


def _names(data: RunData) -> tuple[set[str], set[str]]:
    train, validation = (
        {Path(found.name(index)).as_posix() for index in range(len(found))} for found in (data.train, data.validation)
    )
    return train, validation


LAYOUTS = {
    "train and test": ({"train": "train", "val": "test"}, 36, 4),
    "one place": ({"train": "."}, 32, 8),
    "train, val and test": ({"train": "train", "val": "val"}, 40, 16),
    "Training and Testing": ({"train": "Training", "val": "Testing"}, 36, 4),
}


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("places", "training", "validation"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_test_images_choose_nothing(
    config: Any, images: Path, tmp_path: Path, places: dict[str, str], training: int, validation: int, archive: bool
) -> None:
    root = tmp_path / "photos"
    for split, place in places.items():
        shutil.copytree(images / split, root / place, dirs_exist_ok=True)
    if "val" in places.values():
        shutil.copytree(images / "val", root / "test")
    data = _opened(config(data=str(zipped(tmp_path / "photos.zip", root) if archive else root)))
    seen, held = _names(data)
    assert (len(seen), len(held)) == (training, validation)
    assert not seen & held
    assert not [name for name in seen | held if "test" in name.lower().removeprefix(tmp_path.as_posix().lower())]


def test_shards_named_test_choose_nothing(config: Any, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shard(tmp_path / "shards" / "photos-train-0.tar", [0, 1] * 20)
    shard(tmp_path / "shards" / "photos-test-0.tar", [0, 1] * 8, first=100)
    seen, held = _names(_opened(config(data=str(tmp_path / "shards"))))
    assert (len(seen), len(held)) == (36, 4)
    assert all("photos-train-0.tar" in name for name in seen | held)


def test_other_test_images_give_the_same_run(config: Any, images: Path, tmp_path: Path) -> None:
    """The same weights are best, and the same accuracy is logged, whatever the test images are."""
    results = []
    for name, shade in (("one", 0), ("two", 255)):
        root = tmp_path / name
        shutil.copytree(images / "train", root / "train")
        for kind in ("above", "below"):
            (root / "test" / kind).mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(root / "test" / kind / "0.png")
        run = tmp_path / f"run-{name}"
        train(config(data=str(root), out=str(run), epochs=2), quiet=True)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        results.append(((run / "best.safetensors").read_bytes(), [line["val_top1"] for line in log]))
    assert results[0] == results[1]
