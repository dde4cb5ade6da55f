"""Finding images and labels, and what is said about sources that are wrong or damaged."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from bhvit.data.dataset import evenly, open_dataset
from bhvit.errors import UserError
from helpers.shared import shared


def encoded(shade=0, size=(8, 8), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 0)).save(file, kind)
    return file.getvalue()


def make_folder(root, classes=("cat", "dog"), count=10, kind="png"):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:02}.{kind}").write_bytes(encoded(100 * label + index, kind=kind.upper()))
    return root


def write_parquet(path, labels, names=None, columns=("image", "label"), images=None, row_group_size=3):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    images = images or [{"bytes": encoded(shade), "path": f"{shade}.png"} for shade in range(len(labels))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(images, kind), columns[1]: pa.array(labels)})
    if names:
        features = {columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=row_group_size)
    return path


def refused(*args, **options):
    with pytest.raises(UserError) as caught:
        open_dataset(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_class_names_comes_before_the_names_in_parquet_files(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    write_parquet(folder / "train.parquet", [0, 1, 0, 1], names=["n01", "n02"])
    assert open_dataset(folder, "all").class_names == ("n01", "n02")
    (folder / "classes.txt").write_text("0\tn01\tcat\n1\tn02\tdog\n")
    assert open_dataset(folder, "all").class_names == ("cat", "dog")
    other = tmp_path / "other.txt"
    other.write_text("Katze\nHund\n")
    assert open_dataset(folder, "all", classes_file=other).class_names == ("Katze", "Hund")
    (folder / "classes.txt").write_text("cat\n")
    assert "1" in refused(folder, "all")


def test_digits_are_split_by_class_and_always_the_same():
    pytest.importorskip("sklearn")
    train, test = open_dataset("digits"), open_dataset("digits", "test")
    assert (len(train), len(test), len(open_dataset("digits", "all"))) == (1438, 359, 1797)
    assert not set(train.indices) & set(test.indices)
    assert np.bincount(test.labels).min() >= 35
    assert test.image(0).size == (8, 8)
    np.testing.assert_array_equal(test.indices, open_dataset("digits", "validation").indices)


def test_class_folders_without_splits(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "cat" / ".hidden").write_text("")
    (tmp_path / "README.txt").write_text("about these")
    train, test = open_dataset(tmp_path), open_dataset(tmp_path, "test")
    assert train.class_names == ("cat", "dog")
    assert (len(train), len(test)) == (16, 4)
    for index, label in enumerate(test.labels):
        assert f"/{test.class_names[label]}/" in test.name(index)
        assert np.asarray(test.image(index))[0, 0, 0] // 100 == label


def test_class_folders_with_splits(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", count=3)
    assert len(open_dataset(tmp_path, "train")) == 20
    assert len(open_dataset(tmp_path, "validation")) == len(open_dataset(tmp_path, "test")) == 6
    assert len(open_dataset(tmp_path, "all")) == 26
    make_folder(tmp_path / "test", count=2)
    assert (len(open_dataset(tmp_path, "validation")), len(open_dataset(tmp_path, "test"))) == (6, 4)
    make_folder(tmp_path / "test", classes=("cow",), count=2)
    assert "cow" in refused(tmp_path, "test")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_are_read_without_unpacking(tmp_path, kind):
    make_folder(tmp_path / "pets" / "animals")
    path = tmp_path / f"pets.{kind}"
    shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "pets")
    dataset = pickle.loads(pickle.dumps(open_dataset(path)))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image(0).size == (8, 8)
    path.write_bytes(path.read_bytes()[:700])
    assert str(path) in refused(path)


def test_compressed_tar_and_other_files_are_refused(tmp_path):
    make_folder(tmp_path / "pets")
    with tarfile.open(tmp_path / "pets.tar", "w:gz") as archive:
        archive.add(tmp_path / "pets", "pets")
    assert "uncompressed" in refused(tmp_path / "pets.tar")
    (tmp_path / "notes.txt").write_text("")
    assert "neither a folder" in refused(tmp_path / "notes.txt")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert "no images" in refused(tmp_path / "empty.zip")


def test_parquet_by_row_groups_and_in_workers(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 1, 0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1, 0], ["cat", "dog"])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", [0, 1], ["cat", "dog"])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [1, 1], ["cat", "dog"])
    write_parquet(tmp_path / "test_other-00000-of-00001.parquet", [0], ["cat", "dog"])
    train = pickle.loads(pickle.dumps(open_dataset(tmp_path, warn=lambda line: None)))
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert [train.image(index).getpixel((0, 0))[0] for index in (4, 0, 6, 3)] == [4, 0, 1, 3]
    assert train.name(6).endswith("train-00001-of-00002.parquet row 1")
    assert open_dataset(tmp_path, "test", warn=lambda line: None).labels.tolist() == [1, 1]
    assert len(open_dataset(tmp_path / "test_other-00000-of-00001.parquet", "test", class_names=("cat", "dog"))) == 1


def test_parquet_class_names_from_a_file_or_numbers(tmp_path):
    path = write_parquet(tmp_path / "some.parquet", [0, 1, 2] * 4)
    assert open_dataset(path, "all").class_names == ("0", "1", "2")
    (tmp_path / "names.txt").write_text("0\tn01\tcat\n1\tn02\tdog\n2\tn03\tcow, ox\n")
    assert open_dataset(path, "all", classes_file=tmp_path / "names.txt").class_names == ("cat", "dog", "cow, ox")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert "2 class names" in refused(path, "all", classes_file=tmp_path / "names.txt")
    assert "absent" in refused(path, "all", classes_file=tmp_path / "absent.txt")


def test_bad_parquet_is_refused_by_name(tmp_path):
    path = write_parquet(tmp_path / "good.parquet", [0, 1] * 20)
    data = path.read_bytes()
    bad = tmp_path / "bad.parquet"
    for damage in [data[: len(data) // 2], b"", b"PAR1" + b"x" * 100 + b"PAR1", b"hello"]:
        bad.write_bytes(damage)
        assert str(bad) in refused(bad)
    assert "lacks the column" in refused(write_parquet(bad, [0, 1], columns=("photo", "label")))
    assert "lacks the column" in refused(write_parquet(bad, [0, 1], columns=("image", "kind")))
    assert "missing" in refused(write_parquet(bad, [0, None, 1]))
    assert "negative" in refused(write_parquet(bad, [0, -1, 1]))
    assert "not whole numbers" in refused(write_parquet(bad, [0.5, 1.5]))
    assert "class names" in refused(write_parquet(bad, [0, 7], ["cat", "dog"]))
    assert "single class" in refused(write_parquet(bad, [0, 0]))


def test_missing_empty_and_single_class(tmp_path):
    assert "there is no" in refused(tmp_path / "absent")
    assert "no images" in refused(tmp_path)
    (tmp_path / "loose.png").write_bytes(encoded())
    assert "no class folders" in refused(tmp_path)
    make_folder(tmp_path / "one", classes=("cat",))
    assert "single class" in refused(tmp_path / "one")
    (tmp_path / "one" / "dog").mkdir()
    assert "dog" in refused(tmp_path / "one")
    assert "split" in refused(tmp_path / "one", "tets")


def test_damaged_images_are_named_and_skipped_or_refused(tmp_path):
    make_folder(tmp_path, kind="jpeg")
    whole = encoded(7, (200, 200), "JPEG")
    (tmp_path / "cat" / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / "empty.png").touch()
    damaged = bytearray(encoded(3, (64, 64)))
    damaged[60:70] = b"\0" * 10
    (tmp_path / "dog" / "corrupt.png").write_bytes(damaged)
    lines: list[str] = []
    dataset = open_dataset(tmp_path, "all", warn=lines.append)
    assert len(dataset) == 20
    assert len(dataset.skipped) == 4
    assert lines[-1] == f"skipped 4 of the 24 images of {tmp_path}; --strict refuses them"
    for split in ("train", "validation"):
        part = open_dataset(tmp_path, split, warn=lines.append)
        count = len(part.skipped)
        said = f"skipped {count} of the {len(part) + count} images of the split {split} of {tmp_path}; "
        assert lines[-1].startswith(said)
    for name in ("short.jpg", "notes.txt", "empty.png", "corrupt.png"):
        assert any(name in line for line in lines)
    assert "--strict" in refused(tmp_path, "all", strict=True)
    for name in ("cat", "dog"):
        for path in (tmp_path / name).glob("*.jpeg"):
            path.unlink()
    assert f"none of the 4 files of {tmp_path} is a whole image" in refused(tmp_path, "all")


def test_damaged_images_in_parquet(tmp_path):
    images = [{"bytes": encoded(shade), "path": ""} for shade in range(6)]
    images[2]["bytes"] = b"junk"
    images[3]["bytes"] = None
    path = write_parquet(tmp_path / "train.parquet", [0, 1] * 3, images=images)
    lines: list[str] = []
    assert len(open_dataset(path, "all", warn=lines.append)) == 4
    assert "row 2" in lines[0]
    assert "row 3" in lines[1]


def test_classes_are_matched_to_those_a_model_knows(tmp_path):
    make_folder(tmp_path, classes=("cat",))
    dataset = open_dataset(tmp_path, "all", class_names=("dog", "cat"))
    assert set(dataset.labels.tolist()) == {1}
    assert "does not know: cat" in refused(tmp_path, "all", class_names=("dog", "cow"))


def test_large_sets_are_only_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("bhvit.data.integrity.THOROUGH_CHECK", 1)
    make_folder(tmp_path, kind="jpeg")
    whole = encoded(7, (200, 200), "JPEG")
    (tmp_path / "cat" / "short.jpg").write_bytes(whole[: len(whole) // 2])
    lines: list[str] = []
    assert len(open_dataset(tmp_path, "all", warn=lines.append)) == 20
    assert "short.jpg" in lines[0]


def test_real_parquet():
    dataset = open_dataset(shared("data", "cifar10", "test_lossless-00000-of-00001.parquet"), "test")
    assert len(dataset) == 1017
    assert dataset.class_names[:2] == ("airplane", "automobile")
    assert dataset.image(1016).size == (32, 32)


@pytest.mark.parametrize(
    ("length", "count", "chosen"),
    [(10, 4, [0, 3, 6, 9]), (10, 1, [0]), (3, None, [0, 1, 2]), (3, 0, [0, 1, 2]), (3, 9, [0, 1, 2]), (0, 2, [])],
)
def test_images_are_chosen_evenly(length, count, chosen):
    assert evenly(length, count).tolist() == chosen
