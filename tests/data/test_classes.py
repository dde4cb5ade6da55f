"""Names of classes, and labels that are only numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bhvit.data.classes import read_class_names
from bhvit.data.dataset import open_dataset
from bhvit.errors import UserError
from helpers.images import class_folders, parquet, png, shard, tar


def test_equal_lists_with_a_name_twice_are_matched_by_position(tmp_path: Path) -> None:
    names = ["crane", "heron", "crane"]
    parquet(tmp_path / "train.parquet", [0, 1, 2] * 20, names)
    parquet(tmp_path / "val.parquet", [0, 1, 2] * 10, names, first=500)
    known = open_dataset(tmp_path, "train").class_names
    assert known == ("crane", "heron", "crane")
    labels = open_dataset(tmp_path, "validation", class_names=known).labels
    assert [int((labels == label).sum()) for label in range(3)] == [10, 10, 10]


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["crane", "heron", "crane"], ("heron", "crane", "owl")),
        (["crane", "heron", "owl"], ("owl", "crane", "crane", "heron")),
    ],
)
def test_a_name_twice_in_lists_that_differ_is_refused(tmp_path: Path, names: list[str], known: tuple[str, ...]) -> None:
    parquet(tmp_path / "some.parquet", [0, 1, 2] * 4, names)
    with pytest.raises(UserError, match="crane names several classes"):
        open_dataset(tmp_path, "all", class_names=known)


def test_other_orders_are_matched_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "some.parquet", [0, 1, 0, 1], ["cat", "dog"])
    assert open_dataset(tmp_path, "all", class_names=("dog", "owl", "cat")).labels.tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_numbers_become_as_many_classes_as_there_are(tmp_path: Path, kind: str) -> None:
    makers: dict[str, Callable[..., object]] = {"parquet": parquet, "tar": shard}
    make = makers[kind]
    make(tmp_path / f"train.{kind}", [5, 2_000_000_000] * 10)
    make(tmp_path / f"val.{kind}", [2_000_000_000, 5], first=500)
    train = open_dataset(tmp_path, "train")
    assert train.class_names == ("5", "2000000000")
    assert open_dataset(tmp_path, "validation", class_names=train.class_names).labels.tolist() == [1, 0]


def test_labels_from_one_leave_no_empty_class(tmp_path: Path) -> None:
    parquet(tmp_path / "all.parquet", [1, 2, 3] * 6)
    assert open_dataset(tmp_path).class_names == ("1", "2", "3")


def test_numbers_count_the_classes_of_a_model_with_names(tmp_path: Path) -> None:
    parquet(tmp_path / "all.parquet", [2, 0, 2, 0])
    assert open_dataset(tmp_path, "all", class_names=("cat", "dog", "owl")).labels.tolist() == [2, 0, 2, 0]
    with pytest.raises(UserError, match="has label 2, but the model knows 2 classes"):
        open_dataset(tmp_path, "all", class_names=("cat", "dog"))


def test_a_label_that_no_training_image_has_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [0, 1] * 10)
    parquet(tmp_path / "val.parquet", [0, 7])
    with pytest.raises(UserError, match="has label 7, which no training image has"):
        open_dataset(tmp_path, "validation")


@pytest.mark.parametrize("label", [b"1267650600228229401496703205376", b"9223372036854775808"])
def test_a_label_beyond_64_bits_is_refused(tmp_path: Path, label: bytes) -> None:
    path = tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"0", "1.png": png(1), "1.cls": label})
    with pytest.raises(UserError, match="whole numbers from 0 of at most 63 bits"):
        open_dataset(path, "all")


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_class_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, ("cat", "tea"))
    os.rename(os.fsencode(tmp_path / "cat"), os.fsencode(tmp_path) + b"/caf\xe9")  # noqa: PTH104
    with pytest.raises(UserError, match="is not UTF-8; rename its folder"):
        open_dataset(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert read_class_names(path) == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog\n", "no name in line 2"),
        ("cat\n \t\ndog\n", "no name in line 2"),
        ("0\tcat\n1\t\n2\tdog\n", "no name in line 2"),
        ("\ncat\ndog", "no name in line 1"),
        ("\n \n", "holds no class names"),
        (b"caf\xe9\ndog\n", "are not UTF-8"),
        ("cat\ndog\n".encode("utf-16"), "are not UTF-8"),
    ],
)
def test_class_files_that_would_shift_the_labels_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        read_class_names(path)


def test_only_line_ends_part_class_names(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffcat\u2028wild\r\ndog\x85\rowl\n\n".encode())
    assert read_class_names(path) == ("cat\u2028wild", "dog", "owl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_no_class_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=r"is a (pipe, socket or device|folder), not a file"):
            read_class_names(path)


def test_labels_without_any_training_image_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", [])
    parquet(tmp_path / "val.parquet", [0, 1])
    with pytest.raises(UserError, match="has no training images"):
        open_dataset(tmp_path, "validation")


def test_metadata_nested_without_end_names_no_classes(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = parquet(tmp_path / "all.parquet", [0, 1] * 4)
    deep = pyarrow.parquet.read_table(path).replace_schema_metadata({"huggingface": '{"info":' + "[" * 100_000})
    pyarrow.parquet.write_table(deep, path)
    assert open_dataset(path).class_names == ("0", "1")
