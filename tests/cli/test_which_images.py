"""Commands say on which images they measured, and never call validation images test images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bhvit.data.masks import open_masked
from bhvit.image import Preprocess
from bhvit.models import create_model
from bhvit.packing import pack
from helpers.html_page import HtmlPage
from helpers.masked_images import make
from helpers.randomise import randomise

CHOSEN = ", on which a run's best model is chosen"
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("which") / "pets.bhv"
    network = randomise(create_model("bhvit_nano", num_classes=2), 0)
    network.class_names, network.preprocess = NAMES, Preprocess(size=(32, 32))
    pack(network.eval(), path)
    return path


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("which") / "streets.bhv"
    network = randomise(create_model("bhvit_nano", num_classes=3, img_size=(16, 32), task="segment"), 0)
    network.class_names, network.preprocess = ("sky", "road", "car"), Preprocess(size=(16, 32), crop=1.0)
    pack(network.eval(), path)
    return path


def photos(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with so many images each in every split; "" stands for no split."""
    for number, (split, count) in enumerate(counts.items()):
        for label, name in enumerate(NAMES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (36, 36), (40 * number, 100 * label, index)).save(folder / f"{index}.png")
    return root


CASES = [
    # splits with images of each class, --split, images, what they are called
    ({"": 10}, [], 20, "all"),
    ({"": 10}, ["--split", "test"], 4, "validation"),
    ({"": 10}, ["--split", "validation"], 4, "validation"),
    ({"": 10}, ["--split", "train"], 16, "train"),
    ({"": 1}, [], 2, "all"),
    ({"train": 10, "test": 3}, [], 6, "test"),
    ({"train": 10, "test": 3}, ["--split", "validation"], 2, "validation"),
    ({"train": 10, "val": 2}, [], 4, "validation"),
    ({"Train": 10, "Valid": 2, "Test": 3}, [], 6, "test"),
    ({"train": 10}, ["--split", "test"], 4, "validation"),
    ({"train": 10, "test": 3}, ["--split", "all"], 26, "all"),
]


@pytest.mark.parametrize(("counts", "words", "images", "split"), CASES)
def test_eval_says_which_images(bhvit, model, tmp_path, counts, words, images, split):
    command = ["eval", model, "--data", photos(tmp_path / "photos", counts), *words]
    found = json.loads(bhvit(*command, "--json").out)
    assert (found["images"], found["split"]) == (images, split)
    first = bhvit(*command).out.splitlines()[0]
    if split == "all":
        said = (
            "" if words else " (all; if the model was trained on them, --split validation takes those it did not see)"
        )
    else:
        said = f" of the split {split}{CHOSEN if split == 'validation' else ''}"
    assert first == f"{images} images{said}, 2 classes"


@pytest.mark.parametrize(
    ("splits", "words", "images", "split"),
    [
        ((".",), [], 10, "all"),
        ((".",), ["--split", "test"], 2, "validation"),
        (("train", "test"), [], 10, "test"),
        (("train", "test"), ["--split", "validation"], 1, "validation"),
        (("train", "val"), [], 10, "validation"),
    ],
)
def test_eval_of_masks_says_which_images(bhvit, labeller, tmp_path, splits, words, images, split):
    command = ["eval", labeller, "--data", make(tmp_path / "streets", splits, count=10), *words]
    found = json.loads(bhvit(*command, "--json").out)
    assert (found["images"], found["split"]) == (images, split)
    first = bhvit(*command).out.splitlines()[0]
    noun = "image" if images == 1 else "images"
    assert first.startswith(f"{images} {noun}{' (all; if' if split == 'all' else f' of the split {split}'}")
    assert (CHOSEN in first) == (split == "validation")


@pytest.mark.parametrize(
    ("words", "images", "split"),
    [([], 3, "validation"), (["--split", "all"], 18, "all"), (["--split", "train"], 15, "train")],
)
def test_verify_and_report_say_which_images(bhvit, material, tmp_path, words, images, split):
    command = ["verify", material.checkpoint, material.model, "--data", material.images, "--trace", "1", *words]
    found = json.loads(bhvit(*command, "--json").out)
    assert (found["images"], found["split"]) == (images, split)
    first = bhvit(*command).out.splitlines()[0]
    assert first == f"{images} images" + {"validation": f" of the split validation{CHOSEN}"}.get(
        split, "" if split == "all" else f" of the split {split}"
    )
    out = tmp_path / "report.html"
    assert bhvit("report", material.run, "--out", out, *words).status == 0
    text = HtmlPage(out.read_text(encoding="utf-8")).text
    called = {
        "validation": "3 validation images, on which the best epoch was chosen, 3 classes",
        "all": "18 images, 3 classes",
        "train": "15 training images, 3 classes",
    }[split]
    assert f"run on {called}." in text
    assert not re.search(r"test (image|set)", text)


def test_what_is_held_out_lies_in_train_wherever_test_is(tmp_path):
    streets = make(tmp_path / "streets", ("train", "test"), count=10)
    opened = {split: open_masked(streets, split, warn=lambda line: None) for split in ("train", "validation", "test")}
    places = {split: {found.name(index) for index in range(len(found))} for split, found in opened.items()}
    assert [len(found) for found in opened.values()] == [9, 1, 10]
    assert all("/train/" in name for name in places["train"] | places["validation"])
    assert all("/test/" in name for name in places["test"])
    assert not places["train"] & places["validation"]
