"""The bundled model: found by name, what its card says of it, a start for other training."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bhvit
from bhvit.bundled import FOLDER, find, is_packed, list_bundled
from bhvit.cli.main import main
from helpers.shared import shared

BUNDLED = ("cifar10", "tinyimagenet")
ROAD = "road"
"""A segmentation, packed alone."""
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of a few images for each class."""

    def make(names: tuple[str, ...] = NAMES, count: int = 3) -> Path:
        generator = np.random.default_rng(1)
        for split in ("train", "test"):
            for name in names:
                folder = tmp_path / "photos" / split / name
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = generator.integers(0, 255, (32, 32, 3), np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index}.png")
        return tmp_path / "photos"

    return make


def test_a_session_opens_it_by_name(picture: Path) -> None:
    session = bhvit.Session("cifar10")
    assert session.class_names == NAMES
    assert len(session.classify(picture, top=10)) == 10
    assert list_bundled() == sorted((*BUNDLED, ROAD))
    assert list_bundled(".safetensors") == list(BUNDLED)


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("cifar10", ".bhv") == FOLDER / "cifar10.bhv"
    assert find("./sub/cifar10", ".bhv") == Path("sub/cifar10")
    Path("cifar10").write_bytes(b"something else")
    assert find("cifar10", ".bhv") == Path("cifar10")
    assert not is_packed("cifar10")
    with pytest.raises(bhvit.FormatError, match="cifar10"):
        bhvit.Session("cifar10")


def test_a_downloaded_model_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded = tmp_path / "models"
    downloaded.mkdir()
    monkeypatch.setenv("BHVIT_MODELS", str(downloaded))
    monkeypatch.chdir(tmp_path)
    before = list_bundled()
    assert find("large", ".bhv") == Path("large")
    for suffix in (".bhv", ".safetensors"):
        (downloaded / f"large{suffix}").write_bytes(find("cifar10", suffix).read_bytes())
        (downloaded / f"cifar10{suffix}").write_bytes(b"not the one that ships with the package")
    (downloaded / "._large.bhv").write_bytes(b"what macOS leaves behind")
    assert list_bundled() == sorted([*before, "large"])
    (downloaded / "._large.bhv").unlink()
    assert find("cifar10", ".bhv") == FOLDER / "cifar10.bhv"
    assert bhvit.Session("large").class_names == NAMES
    assert main(["pack", "large"]) == 0
    assert (tmp_path / "large.bhv").is_file()  # here, not next to what was downloaded
    assert sorted(path.name for path in downloaded.iterdir()) == sorted(
        f"{name}{suffix}" for name in ("cifar10", "large") for suffix in (".bhv", ".safetensors")
    )


def test_nothing_is_downloaded_for_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("BHVIT_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert find("cifar10", ".bhv") == FOLDER / "cifar10.bhv"
    assert find("other", ".bhv") == Path("other")


def card_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_a_few_megabytes_are_added_to_the_package() -> None:
    for name in (*BUNDLED, ROAD):
        assert (FOLDER / f"{name}.bhv").stat().st_size < 1e6
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 14e6


@pytest.mark.parametrize("name", [*BUNDLED, ROAD])
def test_the_card_names_the_files_that_are_there(name: str) -> None:
    for path in (FOLDER / f"{name}.bhv", FOLDER / f"{name}.safetensors"):
        if path.suffix == ".bhv" or name != ROAD:  # road ships without a checkpoint
            assert f"sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card_of(name)


@pytest.mark.parametrize("name", [*BUNDLED, ROAD])
def test_the_card_names_logs_that_are_there(name: str) -> None:
    logs = re.findall(r"`([a-z0-9-]+\.jsonl)`", card_of(name))
    assert logs
    for log in logs:
        lines = (Path(__file__).parents[2] / "benchmarks" / "accuracy" / "logs" / log).read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("name", BUNDLED)
def test_the_checkpoint_packs_to_the_packed_file(name: str, tmp_path: Path) -> None:
    bhvit.pack(bhvit.load_checkpoint(name), tmp_path / "again.bhv")
    assert (tmp_path / "again.bhv").read_bytes() == (FOLDER / f"{name}.bhv").read_bytes()


@pytest.mark.parametrize(
    ("name", "data", "images"),
    [
        ("cifar10", "cifar10", "test, 10,000 JPEG copies"),
        ("tinyimagenet", "tiny-imagenet", "validation, 10,000 images"),
    ],
)
@pytest.mark.long
def test_evaluation_gives_the_cards_numbers(
    name: str, data: str, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", name, "--data", str(shared("data", data)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    row = re.search(rf"\| {images} \| ([0-9.]+)% \| ([0-9.]+)%", card_of(name))
    assert row is not None
    assert (f"{100 * found['top1']:.2f}", f"{100 * found['top5']:.2f}") == row.groups()
    listed = re.findall(r"^\| ([^|]+) \| ([0-9.]+%) \|$", card_of(name).split("Recheck")[0], flags=re.M)
    of_classes = [(of, accuracy) for of, accuracy in listed if of in found["per_class"]]
    assert len(of_classes) in (10, 20)
    for of, accuracy in of_classes:
        assert accuracy == f"{found['per_class'][of]:.1%}"


@pytest.mark.long
def test_evaluation_gives_the_numbers_of_the_road_s_card(capsys: pytest.CaptureFixture[str]) -> None:
    streets = shared("data", "camvid") / "camvid-320x240.zip"
    assert main(["eval", ROAD, "--data", str(streets), "--split", "test", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["per_class"]["road"]
    assert f"| road | {found:.2%} |" in card_of(ROAD)


def test_the_road_of_any_picture_is_labelled_by_name(picture: Path, tmp_path: Path) -> None:
    assert main(["segment", str(picture), "--model", ROAD, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "picture.png") as labels:
        assert labels.size == (50, 40)
        assert set(np.unique(np.asarray(labels))) <= {0, 1}


def test_licences_of_weights_are_said_with_the_package() -> None:
    text = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in list_bundled())
    assert "CC BY-NC 4.0" in card_of(ROAD)
    configuration = (FOLDER.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'license-files = ["LICENSE", "src/bhvit/bundled/LICENSES.md"]' in configuration


def test_classify_needs_no_model(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(picture), "--top", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(str(picture))
    assert "cifar10" in captured.err
    assert "airplane" in captured.err
    assert main(["classify", "cifar10", str(picture), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["classes"]) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify", "cifar10"], "no image to classify"),
        (["classify", "missing.png"], "no image or folder missing.png"),
        (["classify", "cifar", "missing.png"], "folder cifar; a model is named first: a .bhv file, or cifar10"),
        (["classify", "missing.bhv", "missing.png"], "missing"),
        (["demo", "--pretrained", "--epochs", "3"], "--epochs"),
        (["demo", "--data", "photos"], "--pretrained"),
        (["demo", "--pretrained", "--data", "missing"], "missing"),
        (["eval", "cifar100", "--data", "digits"], "cifar100"),
        (["eval", "cifar10", "--data", "missing"], "there is no missing"),
        (["train", "--data", "digits", "--init", "cifar11", "--out", "out"], "cifar11"),
        (["train", "--data", "digits", "--recipe", "finetune", "--out", "out"], "the recipe finetune"),
    ],
)
def test_mistakes_are_named_in_a_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["cifar10"], [], ["--strict"]])
def test_a_damaged_image_is_the_only_line(
    words: list[str], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.read_bytes()[:60])
    assert main(["classify", *words, str(damaged)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"bhvit: {damaged}")
    assert captured.err.count("\n") == 1
    assert main(["classify", str(damaged), str(picture), str(picture)]) == 2
    assert capsys.readouterr().err.count("bundled model cifar10") == 1


def test_the_demo_of_it_trains_nothing(
    photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = photos()
    for path in sorted(data.glob("test/*/*.png"))[2:]:  # fewer than are compared with the reference
        path.unlink()
    assert main(["demo", "--pretrained", "--data", str(data)]) == 0
    out = capsys.readouterr().out
    assert f"2 images of {data} of the split test: top-1" in out
    assert "NumPy reference on 2 of them" in out
    assert "the same bits" in out
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_other_training_starts_from_it(photos: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    data = str(photos(("left", "right"), 8))
    options = "--recipe finetune --init cifar10 --set epochs=1 --set batch_size=8 --workers 0".split()
    command = ["train", "--data", data, "--out", str(out), *options]
    assert main(command) == 0
    assert "new classifier: cifar10 has 10 classes, the data 2" in capsys.readouterr().err
    started, packaged = bhvit.load_checkpoint(out / "last.safetensors"), bhvit.load_checkpoint("cifar10")
    assert started.class_names == ("left", "right")
    name = "stages.0.0.mlp.linear1.weight"
    ours, theirs = started.state_dict()[name], packaged.state_dict()[name]
    assert ((ours >= 0) == (theirs >= 0)).float().mean() > 0.95
