"""The comparison of networks: trained at equal budgets, continued, measured, and shown with what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.images import parquet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.accuracy import contenders, front, front_page

    return contenders, front, front_page


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty training images, ten test images, of two classes."""
    folder = tmp_path / "images"
    folder.mkdir()
    parquet(folder / "train-00000.parquet", [0, 1] * 10)
    parquet(folder / "test-00000.parquet", [0, 1] * 5, first=100)
    return folder


class Small(nn.Module):
    """A network that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.mean(dim=(2, 3)))


def call(front, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks/accuracy/front.py"), *words])
    front.main()


def test_other_networks_have_the_operations_they_are_known_for(modules) -> None:
    from benchmarks.accuracy.small_images import ResNet20, finer, operations

    assert operations(ResNet20(), (32, 32)) == pytest.approx(40.6e6, rel=0.01)  # He et al.: 41 M
    binary = ResNet20(binary=True)
    assert operations(binary, (32, 32)) == pytest.approx(40.1e6 / 64 + 0.44e6, rel=0.02)
    assert sum(p.numel() for p in binary.parameters()) == pytest.approx(0.27e6, rel=0.02)
    coarse, fine = (operations(finer("mobilenetv3_small_100", count), (32, 32)) for count in (0, 2))
    assert fine > 8 * coarse


def test_the_binary_network_learns_through_its_signs(modules) -> None:
    from benchmarks.accuracy.small_images import ResNet20

    torch.manual_seed(0)
    model = ResNet20(binary=True)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_part_of_the_images_is_always_the_same_part(modules, images: Path, tmp_path: Path) -> None:
    from bhvit.data import open_dataset

    _, front, _ = modules
    parts = [front.part_of(str(images), 12, tmp_path / name) for name in ("one", "two")]
    first, second = (open_dataset(str(part), "train", test_fraction=0.1) for part in parts)
    assert len(first) < 12
    assert first.labels.tolist() == second.labels.tolist()
    assert len(open_dataset(str(parts[0]), "test")) == 10


def test_a_network_of_ours_is_trained_once(modules, images: Path, tmp_path: Path, monkeypatch) -> None:
    contenders, front, _ = modules
    monkeypatch.setattr(
        front, "CONTENDERS", (contenders.Contender(name="Ours", settings={"batch_size": 4, "depth": 1}),)
    )
    words = "--data", str(images), "--out", str(tmp_path / "runs"), "--epochs", "1", "--only", "ours"
    call(front, monkeypatch, *words)
    (path,) = (tmp_path / "runs").glob("*/result.json")
    result = json.loads(path.read_text())
    assert (result["network"], result["epochs"], result["images"], result["seed"]) == ("Ours", 1, 18, 0)
    assert set(result["top1"]) == {"1 bit"}
    assert result["cpu_minutes"] > 0
    path.write_text(json.dumps({**result, "kept": True}))
    call(front, monkeypatch, *words)
    assert json.loads(path.read_text())["kept"]


def test_a_stopped_network_of_others_goes_on_where_it_was(modules, images: Path, tmp_path: Path, monkeypatch) -> None:
    contenders, front, _ = modules
    monkeypatch.setattr(
        front, "CONTENDERS", (contenders.Contender(name="Small", settings={"batch_size": 4}, network=Small),)
    )
    found = []
    monkeypatch.setattr(front, "_measured", lambda model, *_: found.append(model.state_dict()) or {"float32": 0.5})
    epoch = front._epoch

    def stops(model, optimizer, batches, config, number) -> None:
        if number == 2:
            raise KeyboardInterrupt
        epoch(model, optimizer, batches, config, number)

    def words(name: str) -> tuple[str, ...]:
        return "--data", str(images), "--out", str(tmp_path / name), "--epochs", "3"

    call(front, monkeypatch, *words("whole"))
    monkeypatch.setattr(front, "_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        call(front, monkeypatch, *words("parts"))
    monkeypatch.setattr(front, "_epoch", epoch)
    call(front, monkeypatch, *words("parts"))
    whole, parts = found
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    (path,) = (tmp_path / "parts").glob("*/result.json")
    assert set(json.loads((path.parent / "cpu.json").read_text())) == {"1", "2", "3"}


def test_times_are_those_of_the_processor(modules, monkeypatch) -> None:
    page = modules[2]
    now = 0.0

    def takes(seconds: float):
        def call() -> None:
            nonlocal now
            now += seconds

        return call

    monkeypatch.setattr(page.time, "process_time", lambda: now)
    assert page.cpu_milliseconds([takes(0.001), takes(0.25)]) == pytest.approx([1, 250])


def test_every_network_has_a_row_and_seeds_are_averaged(modules, tmp_path: Path, monkeypatch) -> None:
    contenders, _, page = modules
    names = [contender.name for contender in contenders.CONTENDERS]
    results = [
        {"network": names[0], "images": 900, "epochs": 2, "seed": seed, "top1": {"1 bit": top1}, "cpu_minutes": 1.5}
        for seed, top1 in ((0, 0.4), (1, 0.5))
    ]
    timed = {names[0]: {"ops": 2e6, "megabytes": {"1 bit": 0.5}, "ms": {"1 bit": {"bhvit": 0.25}}}}
    table = [dict(zip(page.HEADER, row, strict=True)) for row in page.rows(results, timed)]
    assert [row["Network"] for row in table] == names
    assert table[0]["Top-1"] == "45.00 %"
    assert (table[0]["Seeds"], table[0]["Epochs"], table[0]["Training images"]) == ("0 1", "2", "900")
    assert (table[0]["Spread, points"], table[0]["ms, bhvit"], table[0]["File, MB"]) == ("7.07", "0.250", "0.50")
    assert {row["Top-1"] for row in table[1:]} == {page.NOT_TRAINED}
    monkeypatch.setattr(page, "RESULTS", tmp_path / "front.jsonl")
    for number, result in enumerate([*results, {**results[0], "top1": {"1 bit": 0.6}}]):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "result.json").write_text(json.dumps(result))
    page.collect(tmp_path)
    page.collect(tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "front.jsonl").read_text().splitlines()]
    assert [(result["seed"], result["top1"]["1 bit"]) for result in kept] == [(0, 0.6), (1, 0.5)]
