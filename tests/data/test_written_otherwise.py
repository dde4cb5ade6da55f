"""Class folders that differ only in how their names are written, and splits of several folders."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from bhvit.data.dataset import open_dataset
from bhvit.errors import UserError


def _folders(root: Path, *folders: str) -> str:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (8, 8), (number, index, 0)).save(root / folder / f"{index}.png")
    return str(root)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("CAFÉ", "café differs only in capitals"),
        ("Café ", "café differs only in capitals"),
        (unicodedata.normalize("NFD", "café"), "café differs only in its spaces or accents"),
        (" café", "café differs only in its spaces or accents"),
    ],
)
def test_a_validation_class_that_is_written_otherwise_is_named_with_the_training_class(
    other: str, said: str, tmp_path: Path
) -> None:
    source = _folders(tmp_path, "train/café", "train/thé", f"val/{other}", "val/thé")
    with pytest.raises(UserError, match=said):
        open_dataset(source, "validation")


def test_classes_that_only_store_their_accents_otherwise_are_refused(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    with pytest.raises(UserError, match="two classes café whose names store their accents in two ways"):
        open_dataset(_folders(tmp_path, *forms, "thé"))


@pytest.mark.parametrize(
    ("folders", "split", "together"),
    [
        (("fold1_train", "fold2_train", "fold1_val"), "train", "train is fold1_train, fold2_train together"),
        (("train", "my.val", "other-valid"), "validation", "validation is my.val, other-valid together"),
        (("train_a", "Train-B", "test"), "all", "train is Train-B, train_a together"),
    ],
)
def test_folders_that_make_one_split_are_said(
    folders: Sequence[str], split: str, together: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _folders(tmp_path, *(f"{folder}/{name}" for folder in folders for name in "ab"))
    open_dataset(source, split)
    assert f"the split {together}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.TGZ", "photos.7z", "photos.rar"])
def test_an_archive_of_another_kind_is_to_be_unpacked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"archive")
    with pytest.raises(UserError, match=r"neither a folder nor .*; unpack it, or make a \.zip or \.tar of it"):
        open_dataset(str(tmp_path / name))
