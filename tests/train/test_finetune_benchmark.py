"""The benchmark of the plain command: its variants can be trained, are measured once, and all have a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bhvit.train import TrainConfig, auto
from helpers.images import class_folders

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.accuracy import finetune

    return finetune


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    class_folders(tmp_path / "photos" / "train", count=10)
    class_folders(tmp_path / "photos" / "test", count=3, first=50)
    return tmp_path / "photos"


def test_variants_change_what_they_say(finetune, photos: Path) -> None:
    data = str(photos)
    plain = finetune.settings(finetune.PLAIN, data, 3, None)
    chosen = auto.chosen(finetune.open_dataset(data, "train"))
    assert {name: plain[name] for name in chosen} == chosen
    assert plain["seed"] == 3
    assert finetune.settings(finetune.PLAIN, data, 0, 20)["warmup_epochs"] == 2
    for name in finetune.VARIANTS:
        settings = finetune.settings(name, data, 0, None)
        TrainConfig.from_dict({**settings, "out": "run"})
        assert settings["epochs"] == plain["epochs"]
        changed = {key for key in settings if settings[key] != plain.get(key) and key != "seed"}
        assert changed or name == finetune.PLAIN or finetune.VARIANTS[name].items() <= plain.items(), name
    assert finetune.settings("from scratch, recipe `small`", data, 0, None)["init"] is None


def test_a_variant_is_trained_and_measured_once(finetune, photos: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "runs"
    finetune.run(finetune.PLAIN, str(photos), out, 0, 1)
    (path,) = out.glob("*/result.json")
    result = json.loads(path.read_text())
    assert (result["name"], result["trained"], result["images"]) == (finetune.PLAIN, 1, [18, 6])
    assert all(0 <= top1 <= 1 for top1 in (*result["last"], *result["best"]))
    path.write_text(json.dumps({**result, "best": [0.25, 0.5]}))
    finetune.run(finetune.PLAIN, str(photos), out, 0, 1)
    monkeypatch.setattr(finetune, "RESULTS", tmp_path / "finetune.jsonl")
    finetune.collect(out)
    finetune.collect(out)
    results = [json.loads(line) for line in (tmp_path / "finetune.jsonl").read_text().splitlines()]
    assert len(results) == 1
    table = finetune.rows(results)
    assert [row[0] for row in table] == list(finetune.VARIANTS)
    assert table[0][2:7] == ["1 of 1", "0", "25.0 %", "one seed", "50.0 %"]
    assert {row[1] for row in table[1:]} == {"not trained yet"}
