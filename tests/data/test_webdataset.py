"""WebDataset shards, large sources in blocks, and what is remembered of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from bhvit.data import folders, parquet
from bhvit.data import index_cache as listing
from bhvit.data import integrity as damage
from bhvit.data import webdataset as shards
from bhvit.data.dataset import open_dataset
from bhvit.errors import UserError
from helpers.shard_files import png, write_shard


def samples(count: int, first: int = 0) -> list[dict[str, bytes]]:
    return [{"png": png(first + i), "cls": str(i % 2).encode(), "txt": b"a caption"} for i in range(count)]


def refused(*args: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def settled(*paths: Path) -> None:
    """As if nothing had changed for a minute."""
    for path in paths:
        os.utime(path, (time.time() - 60,) * 2)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BHVIT_CACHE", str(folder))
    return folder


def test_a_folder_of_shards_is_a_source(tmp_path):
    write_shard(tmp_path / "train-000000.tar", samples(5))
    write_shard(tmp_path / "train-000001.tar", samples(3, first=100))
    write_shard(tmp_path / "val-000000.tar", samples(2, first=200))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    train, held_out = open_dataset(tmp_path), open_dataset(tmp_path, "test")
    assert (len(train), len(held_out), train.class_names) == (8, 2, ("cat", "dog"))
    assert [np.asarray(train.image(i))[0, 0, 0] for i in range(8)] == [0, 1, 2, 3, 4, 100, 101, 102]
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    assert train.name(6) == f"{tmp_path / 'train-000001.tar'} sample 1"
    again = pickle.loads(pickle.dumps(train))
    assert again.image(7).getpixel((0, 0))[0] == 102


def test_one_shard_with_labels_in_json_is_a_source(tmp_path):
    rows = [{"jpg": png(i), "json": json.dumps({"label": i % 3}).encode(), "seg.png": b"a mask"} for i in range(12)]
    found = open_dataset(write_shard(tmp_path / "images.tar", rows), "all")
    assert found.labels.tolist() == [0, 1, 2] * 4
    assert found.class_names == ("0", "1", "2")


def test_a_tar_of_class_folders_is_none(tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        for name in ("cat", "dog"):
            for index in range(3):
                info = tarfile.TarInfo(f"{name}/{index}.png")
                info.size = len(png(index))
                archive.addfile(info, io.BytesIO(png(index)))
    assert open_dataset(tmp_path / "pets.tar", "all").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": png(0)}, "has no label"),
        ({"png": png(0), "cls": b"cat"}, "holds no label but b'cat'"),
        ({"png": png(0), "cls": b"-1"}, "has the label -1"),
        ({"png": png(0), "json": b"{"}, "holds no label"),
        ({"png": png(0), "json": b'{"label": 1.5}'}, "has the label 1.5"),
        ({"png": png(0), "json": b"[1]"}, "has no label"),
    ],
)
def test_samples_without_a_label_are_refused(tmp_path, sample, message):
    write_shard(tmp_path / "a.tar", [*samples(2), sample])
    assert message in refused(tmp_path, "all")


def test_damaged_shards_are_refused(tmp_path):
    path = write_shard(tmp_path / "a.tar", samples(4))
    path.write_bytes(path.read_bytes()[:2000])
    assert "not a whole, uncompressed tar archive" in refused(tmp_path, "all")
    write_shard(path, samples(4), "w:gz")
    assert "uncompressed" in refused(tmp_path, "all")
    write_shard(path, [{"txt": b"a caption"}])
    assert "holds no samples" in refused(tmp_path, "all")
    write_shard(path, [*samples(4), {"png": png(0), "cls": b"7"}])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert "has label 7, but 2 class names" in refused(tmp_path, "all")


def test_a_damaged_image_of_a_shard_is_named_and_skipped(tmp_path):
    write_shard(tmp_path / "a.tar", [*samples(4), {"png": png(0)[:40], "cls": b"1"}])
    lines: list[str] = []
    assert len(open_dataset(tmp_path, "all", warn=lines.append)) == 4
    assert "a.tar sample 4" in lines[0]
    assert "refused because of --strict" in refused(tmp_path, "all", strict=True)


def test_large_shards_are_listed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGE", 3)
    path = write_shard(tmp_path / "a.tar", samples(4))
    settled(path)
    first = open_dataset(tmp_path, "all")
    calls: list[object] = []
    make = shards._index
    monkeypatch.setattr(shards, "_index", lambda files: calls.append(files) or make(files))
    second = open_dataset(tmp_path, "all")
    assert not calls
    assert second.labels.tolist() == first.labels.tolist()
    assert second.image(3).getpixel((0, 0)) == first.image(3).getpixel((0, 0))
    write_shard(path, samples(6))
    settled(path)
    assert len(open_dataset(tmp_path, "all")) == 6
    assert calls


def make_folder(root: Path, count: int = 4) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(png(index))
    settled(root, root / "cat", root / "dog")
    return root


def test_large_folders_are_listed_and_checked_once(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(folders, "LARGE", 3)
    monkeypatch.setattr(damage, "THOROUGH_CHECK", 3)
    root = make_folder(tmp_path / "pets")
    (root / "cat" / "1.png").write_bytes(png(1)[:30])
    settled(root / "cat")
    lines: list[str] = []
    assert len(open_dataset(root, "all", warn=lines.append)) == 7
    looked: list[int] = []
    look = damage._damage
    monkeypatch.setattr(damage, "_damage", lambda store, i, t: looked.append(i) or look(store, i, t))
    monkeypatch.setattr(folders, "_walk", lambda root: pytest.fail("walked again"))
    again: list[str] = []
    assert len(open_dataset(root, "all", warn=again.append)) == 7
    assert again == lines  # what was damaged is looked at again, and said again
    assert looked == [1]
    (root / "cat" / "1.png").write_bytes(png(1))  # repaired in place
    assert len(open_dataset(root, "all")) == 8
    assert len(list((cache / "lists").iterdir())) == 2


def test_a_changed_folder_is_listed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGE", 3)
    root = make_folder(tmp_path / "pets")
    assert len(open_dataset(root, "all")) == 8
    (root / "dog" / "more.png").write_bytes(png(9))
    assert len(open_dataset(root, "all")) == 9
    (root / "fish").mkdir()
    assert "no images of class fish" in refused(root, "all")


def test_a_list_that_is_damaged_or_cannot_be_kept_is_no_matter(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(folders, "LARGE", 3)
    root = make_folder(tmp_path / "pets")
    assert len(open_dataset(root, "all")) == 8
    (kept,) = (cache / "lists").iterdir()
    for content in (b"", b"[]", b'{"stamp": 1, "value": 2}', b'{"stamp": {"x": 1}}'):
        kept.write_bytes(content)
        assert len(open_dataset(root, "all")) == 8
    monkeypatch.setenv("BHVIT_CACHE", str(kept))  # a file, where a folder should be
    assert len(open_dataset(root, "all")) == 8


def test_what_has_just_changed_is_not_remembered(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(folders, "LARGE", 3)
    root = make_folder(tmp_path / "pets")
    (root / "cat" / "new.png").write_bytes(png(9))
    open_dataset(root, "all")
    assert not (cache / "lists").exists()
    listing.keep("x", {str(root): [time.time_ns()]}, 1)
    assert listing.recall("x") is None


def test_blocks_tell_what_is_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 3)
    write_shard(tmp_path / "a.tar", samples(4))
    write_shard(tmp_path / "b.tar", samples(7))
    blocks = open_dataset(tmp_path, "all").blocks
    assert blocks is not None
    assert blocks.tolist() == [0, 0, 0, 1, 3, 3, 3, 4, 4, 4, 5]


def test_parquet_has_blocks_only_where_it_does_not_fit_the_memory(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in range(9)], kind)
    table = pa.table({"image": rows, "label": pa.array([0, 1, 2] * 3)})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", row_group_size=4)
    assert open_dataset(tmp_path, "all").blocks is None
    monkeypatch.setattr(parquet, "PARQUET_CACHE", 300)
    found = open_dataset(tmp_path, "all")
    assert found.blocks is not None
    assert found.blocks.tolist() == [0] * 4 + [1] * 4 + [2]
    assert found.window == 2
    some = found.subset([8, 0]).blocks
    assert some is not None
    assert some.tolist() == [2, 0]


def test_samples_without_an_image_are_counted(tmp_path):
    odd = [
        {"docx": b"no picture", "cls": b"1"},
        {"old.png": png(7), "old.cls": b"1"},  # a name with a dot: its key ends before it
        {"txt": b"a caption alone says nothing of an image"},
    ]
    write_shard(tmp_path / "a.tar", [*samples(4), *odd])
    said: list[str] = []
    assert len(open_dataset(tmp_path, "all", warn=said.append)) == 4
    assert len(said) == 1
    assert "2 samples have no image KEY.jpg, .png, … that is read, such as" in said[0]


def test_a_sample_of_another_format_is_named_and_skipped(tmp_path):
    write_shard(tmp_path / "a.tar", [*samples(4), {"heic": b"no picture", "cls": b"1"}])
    said: list[str] = []
    assert len(open_dataset(tmp_path, "all", warn=said.append)) == 4
    assert "a.tar sample 4 is not an image" in said[0]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": png(0), "jpg": png(1), "cls": b"0"}, "has two images"),
        ({"png": png(0), "cls": b"0", "json": b'{"label": 1}'}, "has the label 1, but its sample has 0, too"),
        ({"png": png(0), "json": b"[" * 100_000}, "holds no label"),
    ],
)
def test_samples_that_contradict_themselves_are_refused(tmp_path, sample, message):
    write_shard(tmp_path / "a.tar", [*samples(2), sample])
    assert message in refused(tmp_path, "all")


def test_byte_order_marks_in_labels_are_passed_over(tmp_path):
    marked = [{"png": png(i), "cls": b"\xef\xbb\xbf%d\r\n" % (i % 2)} for i in range(4)]
    write_shard(tmp_path / "a.tar", marked)
    assert open_dataset(tmp_path, "all").labels.tolist() == [0, 1, 0, 1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_among_shards_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    assert "is a pipe, socket or device" in refused(tmp_path, "all")
