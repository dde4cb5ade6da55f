"""Which split a file or folder belongs to, and what is held out where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.splits import by_split, held_out, split_of
from bhvit.errors import UserError
from helpers.images import class_folders, parquet, shard, zipped


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("photos-train-000.tar", "train"),
        ("my.TRAIN.3.tar", "train"),
        ("val_00.parquet", "validation"),
        ("VALID", "validation"),
        ("photos_validation", "validation"),
        ("dev-1.tar", "validation"),
        ("Test", "test"),
        ("imagenet-testing-07.tar", "test"),
        ("ValImages", "validation"),
        ("photosTest2", "test"),
        ("trainset", "train"),
        ("my_devset.TAR", "validation"),
        ("val/0000.parquet", "validation"),
        ("Contest", None),
        ("latest.parquet", None),
        ("contest", None),
        ("trained-later", None),
        ("0000.parquet", None),
        ("evaluation", None),
    ],
)
def test_a_word_at_any_place_says_the_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_name_of_several_splits_is_refused() -> None:
    with pytest.raises(UserError, match=r"train-val\.tar names several splits \(train and validation\)"):
        split_of("train-val.tar")


def test_longer_names_are_left_out_where_a_plain_one_is() -> None:
    splits, lines = by_split(["test.parquet", "test_lossless.parquet", "notes.parquet", "train-1.parquet"], "set")
    assert splits == {"train": ["train-1.parquet"], "test": ["test.parquet"]}
    assert len(lines) == 2
    assert "notes.parquet fits no split" in lines[0]
    assert "test_lossless.parquet is left out of the split test" in lines[1]


def _folders(root: Path, names: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(names.items()):
        class_folders(root / name, count=count, first=100 * number)
    return root


def _zip(root: Path, names: dict[str, int]) -> Path:
    _folders(root / "all", names)
    return zipped(root / "set.zip", root / "all")


def _parquet(root: Path, names: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(names.items()):
        parquet(root / f"{name}.parquet", [0, 1] * count, first=100 * number)
    return root


def _shards(root: Path, names: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(names.items()):
        shard(root / f"{name}.tar", [0, 1] * count, first=100 * number)
    return root


KINDS = pytest.mark.parametrize("make", [_folders, _zip, _parquet, _shards])


def _opened(source: Path, split: str) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return open_dataset(source, split, warn=said.append), said


@KINDS
@pytest.mark.parametrize("validation", ["val_00", "photos-val-000", "Valid", "dev"])
def test_every_kind_of_source_finds_its_splits(
    tmp_path: Path, make: Callable[[Path, dict[str, int]], Path], validation: str
) -> None:
    source = make(tmp_path, {"train_00": 10, validation: 3, "test": 2})
    for split, count in (("train", 20), ("validation", 6), ("test", 4), ("all", 30)):
        dataset, said = _opened(source, split)
        assert (len(dataset), dataset.split, said) == (count, split, [])
        assert dataset.splits == ("train", "validation", "test")


@KINDS
def test_what_fits_no_split_is_said(tmp_path: Path, make: Callable[[Path, dict[str, int]], Path]) -> None:
    source = make(tmp_path, {"train": 10, "val": 3, "extras": 2})
    dataset, said = _opened(source, "train")
    assert len(dataset) == 20
    assert len(said) == 1
    assert "extras" in said[0]


@KINDS
def test_validation_is_held_out_of_training_images_and_test_images_never_serve(
    tmp_path: Path, make: Callable[[Path, dict[str, int]], Path]
) -> None:
    source = make(tmp_path, {"train": 20, "test": 5})
    train, validation, test = (_opened(source, split)[0] for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (36, 4, 10)
    names = [{one.name(index) for index in range(len(one))} for one in (train, validation, test)]
    assert not names[0] & names[1]
    assert not names[2] & (names[0] | names[1])
    assert (train.split, validation.split, test.split) == ("train", "validation", "test")


def test_without_test_images_validation_images_are_called_so(tmp_path: Path) -> None:
    _folders(tmp_path, {"train": 10, "val": 3})
    assert _opened(tmp_path, "test")[0].split == "validation"
    plain = class_folders(tmp_path / "plain")
    asked = _opened(plain, "test")[0]
    assert (asked.split, asked.splits, len(asked)) == ("validation", (), 4)


def test_a_source_of_test_images_alone_cannot_be_trained_on(tmp_path: Path) -> None:
    _folders(tmp_path, {"test": 4})
    for split in ("train", "validation"):
        with pytest.raises(UserError, match="has no training images, only test"):
            _opened(tmp_path, split)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folders(tmp_path, ("car", "train", "test tubes"))
    dataset, said = _opened(tmp_path, "train")
    assert dataset.class_names == ("car", "test tubes", "train")
    assert not said


def test_what_is_held_out_is_stratified_and_always_the_same() -> None:
    labels = np.repeat([0, 1, 2], [10, 2, 1])
    chosen = held_out(labels, 0.2)
    assert np.bincount(labels[chosen], minlength=3).tolist() == [2, 1, 0]
    np.testing.assert_array_equal(chosen, held_out(labels, 0.2))


@pytest.mark.parametrize(("kind", "make"), [("parquet", parquet), ("tar", shard)])
def test_files_in_folders_named_after_splits_belong_to_these(
    tmp_path: Path, kind: str, make: Callable[..., Path]
) -> None:
    for number, (name, labels) in enumerate({"Train": [0, 1] * 5, "validation": [0, 1] * 2, "test": [1, 0]}.items()):
        (tmp_path / name).mkdir()
        make(tmp_path / name / f"0000.{kind}", labels, first=100 * number)
    for split, count in (("train", 10), ("validation", 4), ("test", 2), ("all", 16)):
        said: list[str] = []
        dataset = open_dataset(tmp_path, split, warn=said.append)
        assert (len(dataset), dataset.split, said) == (count, split, [])


@pytest.mark.parametrize(("kind", "make"), [("PARQUET", parquet), ("Tar", shard)])
def test_endings_may_be_in_capitals(tmp_path: Path, kind: str, make: Callable[..., Path]) -> None:
    make(tmp_path / f"train-0.{kind.lower()}", [0, 1] * 5)
    make(tmp_path / f"VAL-0.{kind}", [0, 1] * 3, first=100)
    assert (len(open_dataset(tmp_path)), len(open_dataset(tmp_path, "validation"))) == (10, 6)


def test_files_of_other_kinds_next_to_shards_are_said(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", [0, 1] * 5)
    shard(tmp_path / "val-0.tar", [0, 1]).rename(tmp_path / "val-0.tar.gz")
    (tmp_path / "README.md").write_text("no images")
    said: list[str] = []
    open_dataset(tmp_path, warn=said.append)
    assert said == [f"{tmp_path / 'val-0.tar.gz'} is of another kind than train-0.tar; left out"]


def test_parquet_files_in_data_and_next_to_it_are_one_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "train.parquet", [0, 1] * 5)
    parquet(tmp_path / "data" / "validation-0.parquet", [0, 1] * 3, first=100)
    assert (len(open_dataset(tmp_path)), len(open_dataset(tmp_path, "validation"))) == (10, 6)


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_images_outside_of_class_folders_are_said(tmp_path: Path, archive: bool) -> None:
    root = _folders(tmp_path / "set", {"train": 4, "val": 2})
    for place in ("loose.png", "train/loose.jpg", "train/notes.txt"):
        (root / place).write_bytes(b"anything")
    source = zipped(tmp_path / "set.zip", root) if archive else root
    said: list[str] = []
    assert len(open_dataset(source, warn=said.append)) == 8
    assert said == [f"{source}: 2 files lie in no class folder (loose.png, train/loose.jpg); left out"]


def test_names_given_for_class_folders_are_said_to_be_unused(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    said: list[str] = []
    assert open_dataset(class_folders(tmp_path / "set"), classes_file=names, warn=said.append).class_names == (
        "cat",
        "dog",
    )
    assert "names its classes by folders" in said[0]


@pytest.mark.parametrize(("source", "message"), [("", "the source is empty"), ("x" * 9000, "File name too long")])
def test_sources_that_are_no_paths_are_refused(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("make", [_folders, _zip])
@pytest.mark.parametrize("names", [("tr", "te"), ("2019", "2020", "2021"), ("learn", "check")])
def test_folders_that_may_be_splits_are_not_taken_for_classes_in_silence(
    tmp_path: Path, make: Callable[[Path, dict[str, int]], Path], names: tuple[str, ...]
) -> None:
    source = make(tmp_path, dict.fromkeys(names, 3))
    dataset, said = _opened(source, "train")
    assert dataset.class_names == tuple(sorted(names))
    assert len(said) == 1
    assert "are taken for the classes, and cat, dog in each of them for nothing" in said[0]


@pytest.mark.parametrize(
    "places",
    [
        ("cat/indoors", "cat/outdoors", "dog/garden"),  # other folders in each
        ("cat", "cat/more", "dog/more"),  # images next to the folder
        ("cat/more", "dog"),
        ("train/cat/more", "train/dog/more"),
    ],
)
def test_folders_within_classes_are_no_matter(tmp_path: Path, places: tuple[str, ...]) -> None:
    for number, place in enumerate(places):
        class_folders(tmp_path / place, (".",), count=4, first=10 * number)
    dataset, said = _opened(tmp_path, "train")
    assert (dataset.class_names, said) == (("cat", "dog"), [])
