"""What a file claims and what it holds: readers take memory in proportion to the file, whatever stands in it."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import sys
import tarfile
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from PIL import Image

from bhvit import bundled
from bhvit.data import index_cache, webdataset
from bhvit.data import parquet as parquet_module
from bhvit.data.archives import MAX_HEADER, ZipStore, locate
from bhvit.data.dataset import open_dataset
from bhvit.decode import load_image
from bhvit.errors import UserError
from helpers.images import class_folders, parquet, png, shard, tar


def _lying_zip(path: Path, method: int, size: int, claimed: int) -> Path:
    """A zip whose member cat/bomb.png unpacks to `size` zeros and claims to have `claimed` bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("cat/0.png", png(0))
        archive.writestr("dog/0.png", png(1, 1))
        archive.writestr("cat/bomb.png", bytes(size))
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\1\2")
    assert data[entry + 46 :].startswith(b"cat/bomb.png")
    struct.pack_into("<I", data, entry + 24, claimed)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_never_unpacks_to_more_than_it_claims(tmp_path: Path, method: int) -> None:
    size = 64 << 20 if method == zipfile.ZIP_DEFLATED else 1 << 20
    store = ZipStore(_lying_zip(tmp_path / "a.zip", method, size, 100))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb\.png cannot be unpacked: Bad CRC-32"):
            store.open(store.members.index("cat/bomb.png"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # LZMA itself takes eight
    finally:
        tracemalloc.stop()
    said: list[str] = []
    assert len(open_dataset(tmp_path / "a.zip", "all", warn=said.append)) == 2
    assert any("bomb.png" in line for line in said)


@pytest.mark.parametrize("kind", ["pax", "gnu name", "gnu link", "global"])
@pytest.mark.parametrize("samples", [False, True])
def test_a_tar_member_with_a_huge_header_is_refused(tmp_path: Path, kind: str, samples: bool) -> None:
    long = "x" * (MAX_HEADER + 1)
    info = tarfile.TarInfo("more.png")
    options: dict[str, object] = {"format": tarfile.PAX_FORMAT}
    if kind == "pax":
        info.pax_headers = {"comment": long}
    elif kind == "global":
        options["pax_headers"] = {"comment": long}
    else:
        options["format"] = tarfile.GNU_FORMAT
        info.name, info.linkname = (long, "") if kind == "gnu name" else ("more.png", long)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", **options) as archive:  # type: ignore[call-overload]
        for row in range(2):
            for name in (f"{row}.png", f"{row}.cls") if samples else (f"class{row}/0.png",):
                data = str(row).encode() if name.endswith("cls") else png(row, row)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        archive.addfile(info)
    with pytest.raises(UserError, match=f"bytes of header, at most {MAX_HEADER} are read"):
        open_dataset(path, "all")


def test_headers_of_usual_size_are_read(tmp_path: Path) -> None:
    name = "cat/" + "long" * 50 + ".png"
    assert len(open_dataset(tar(tmp_path / "a.tar", {name: png(0), "dog/0.png": png(1, 1)}), "all")) == 2


@pytest.mark.parametrize("ending", ["cls", "json"])
def test_a_label_of_megabytes_is_refused(tmp_path: Path, ending: str) -> None:
    text = b" " * webdataset.MAX_LABEL + (b"1" if ending == "cls" else b'{"label": 1}')
    path = tar(tmp_path / "a.tar", {"0.png": png(0), f"0.{ending}": text})
    with pytest.raises(UserError, match=rf"0\.{ending} has \d+ bytes, a label at most {webdataset.MAX_LABEL}"):
        webdataset.ShardStore([path])


@pytest.mark.parametrize("text", ["1_0", "１", "1.0", "0x1", "--1", "", "1 2"])
def test_a_label_is_a_plain_whole_number(tmp_path: Path, text: str) -> None:
    path = tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": text.encode()})
    with pytest.raises(UserError, match=r"0\.cls holds no label but"):
        webdataset.ShardStore([path])


def test_white_space_around_a_label_is_allowed(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"\xef\xbb\xbf 12\n"})
    assert webdataset.ShardStore([path]).labels.tolist() == [12]


def test_the_images_of_a_row_group_are_counted_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    images = [png(row, row % 2).ljust(1 << 20, b"\0") for row in range(4)]
    table = pa.table({"image": [{"bytes": data, "path": None} for data in images], "label": [0, 1, 0, 1]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, compression="gzip", use_dictionary=False)
    assert path.stat().st_size < 100_000
    assert len(open_dataset(path, "all")) == 4
    monkeypatch.setattr(parquet_module, "MAX_GROUP_BYTES", 2 << 20)
    store = parquet_module.ParquetStore([path], "image")
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="the images of row group 0 have more than 2097152 bytes"):
        store.open(0)


def test_labels_are_counted_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pa.table({"image": pa.array([os.urandom(4096)] + [b""] * 7_999, pa.binary()), "label": [0] * 8_000})
    pyarrow.parquet.write_table(table, path)
    assert len(parquet_module.parquet_labels([path], "label")) == 8_000
    monkeypatch.setattr(parquet_module, "MAX_GROUP_BYTES", 10_000)
    with pytest.raises(UserError, match="claims 8000 rows, whose labels alone have more than 10000 bytes"):
        parquet_module.parquet_labels([path], "label")


@pytest.mark.parametrize("names", ["ab", {"a": 0, "b": 1}, 2, None])
def test_class_names_of_a_parquet_file_are_a_list(tmp_path: Path, names: object) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = parquet(tmp_path / "a.parquet", [0, 1, 0, 1], ["cat", "dog"])
    assert parquet_module.parquet_schema(path)[2] == ("cat", "dog")
    table = pq.read_table(path)
    text = json.dumps({"info": {"features": {"label": {"names": names}}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)
    assert parquet_module.parquet_schema(path)[2] is None


def _tiled_tiff(tile: int, count: int = 1) -> bytes:
    """A grey TIFF of 16 x 16 pixels whose tile has `tile` x `tile`, of zeros; `count` values say how wide it is."""
    packed = zlib.compress(bytes(min(tile * tile, 1 << 20)))
    fields = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    fields += [(322, 4, count, tile), (323, 4, 1, tile), (324, 4, 1, 0), (325, 4, 1, len(packed))]
    after = 8 + 2 + 12 * len(fields) + 4
    data = struct.pack("<2sHIH", b"II", 42, 8, len(fields))
    for tag, kind, number, value in fields:
        value = after if tag == 324 or number > 1 else value
        data += struct.pack("<HHI", tag, kind, number)
        data += struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
    return data + struct.pack("<I", 0) + packed


def test_the_tiles_of_a_tiff_are_as_small_as_pictures() -> None:
    assert load_image(_tiled_tiff(16)).size == (16, 16)
    with pytest.raises(UserError, match="tiles of 20000x20000 pixels, more than the"):
        load_image(_tiled_tiff(20_000))
    with pytest.raises(UserError, match="tiles of"):
        load_image(_tiled_tiff(16, count=2))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("BHVIT_CACHE", str(tmp_path))
    kept = index_cache._path("list")
    kept.parent.mkdir()
    os.mkfifo(kept)
    found: list[object] = []

    def look() -> None:
        found.append(bundled.is_packed(tmp_path / "pipe"))
        found.append(index_cache.recall("list"))

    thread = threading.Thread(target=look, daemon=True)  # one that waits for ever does not keep the test from ending
    thread.start()
    thread.join(30)
    assert found == [False, None]


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "[]", "5", '{"stamp": {}}', '{"stamp": [], "value": 1}', "\xff"])
def test_a_damaged_list_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BHVIT_CACHE", str(tmp_path))
    index_cache.keep("list", {}, [1])
    assert index_cache.recall("list") == [1]
    index_cache._path("list").write_text(text, encoding="latin-1")
    assert index_cache.recall("list") is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners of files")
def test_lists_of_other_users_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BHVIT_CACHE", str(tmp_path))
    index_cache.keep("list", {}, [1])
    own = index_cache._path("list").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert index_cache.recall("list") == [1]
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert index_cache.recall("list") == ([1] if own == 0 else None)
    if own == 0:
        os.chown(index_cache._path("list"), 1234, -1)
        assert index_cache.recall("list") is None


def test_these_files_are_read_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert len(open_dataset(class_folders(tmp_path / "folders", count=2), "all")) == 4
    assert len(open_dataset(shard(tmp_path / "a.tar", [0, 1]), "all")) == 2


def test_a_chain_of_links_in_a_tar_is_followed_once(tmp_path: Path) -> None:
    def steps(links: int) -> int:
        """Lines that run to find what each of so many links, one to the next, leads to."""
        infos = [tarfile.TarInfo(f"{number}.png") for number in range(links + 1)]
        for number, info in enumerate(infos[:-1]):
            info.type, info.linkname = tarfile.SYMTYPE, f"{number + 1}.png"
        ran = 0

        def count(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            nonlocal ran
            ran += event == "line"
            return count if frame.f_code is locate.__code__ else None

        before = sys.gettrace()
        sys.settrace(count)
        try:
            places, notes = locate(tmp_path, infos)
        finally:
            sys.settrace(before)
        assert (len(places), notes) == (links + 1, [])
        return ran

    assert steps(200) < 2.2 * steps(100)


def test_members_of_a_zip_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.png", png(0))
        archive.writestr("dog/0.png", png(1, 1).ljust(1 << 20, b"\0"))
        archive.writestr("dog/1.png", png(2, 1))
        for number in range(5):
            shared = copy.copy(archive.infolist()[1])
            shared.filename = f"dog/shared{number}.png"
            archive.filelist.append(shared)
        assert len(archive.infolist()) == 8
    with pytest.raises(UserError, match=r"a\.zip has members that share their bytes \(\d+ of \d+\): make it again"):
        ZipStore(path)


def test_a_parquet_file_of_rows_without_images_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"image": pa.nulls(200_000, pa.binary())}), path)
    with pytest.raises(UserError, match="claims 200000 rows, more than its bits"):
        parquet_module.ParquetStore([path], "image")


def test_small_rows_of_a_group_share_their_memory(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path, rows = tmp_path / "a.parquet", [str(row).encode() for row in range(10_000)]
    pyarrow.parquet.write_table(pa.table({"image": pa.array(rows, pa.binary())}), path)
    store = parquet_module.ParquetStore([path], "image")
    assert [store._group(0)[row].as_py() for row in (0, 4095, 4096, 9999)] == [rows[k] for k in (0, 4095, 4096, 9999)]
    assert store._group(0).num_chunks < 200


def _many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times more."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 90).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    assert load_image(_many_scans(50)).size == (64, 64)
    with pytest.raises(UserError, match="is a JPEG of more than 100 scans"):
        load_image(_many_scans(150))
    usual = _many_scans(0)
    comment = b"\xff\xfe" + (2 + 400).to_bytes(2, "big") + 200 * b"\xff\xda"
    assert load_image(usual[:2] + comment + usual[2:]).size == (64, 64)  # neither in a comment
    assert load_image(usual + 200 * b"\xff\xda").size == (64, 64)  # nor after the end, as phones keep a film


def test_scans_of_an_ordinary_jpeg_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhvit.decode.MAX_SCANS", 0)
    options: dict[str, Any] = {"exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(70_000), "comment": b"new"}
    for mode in ("L", "RGB", "CMYK"):
        file = io.BytesIO()
        Image.new(mode, (64, 64)).save(file, "JPEG", restart_marker_rows=1, **options)
        assert load_image(file).size == (64, 64)
    with pytest.raises(UserError, match="more than 0 scans"):
        load_image(_many_scans(0))
