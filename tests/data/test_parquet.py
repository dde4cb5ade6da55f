"""Parquet files from anybody: opening one takes memory in proportion to its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bhvit.data import parquet as module
from bhvit.data.dataset import open_dataset
from bhvit.data.parquet_pages import Chunk, chunks_of, unpacked_size
from bhvit.errors import UserError
from helpers.images import parquet, png

pa = pytest.importorskip("pyarrow")


def _repeated(path: Path, count: int, size: int) -> Path:
    """One image, padded to `size` bytes, that a dictionary gives to every row."""
    import pyarrow.parquet

    image = png(0).ljust(size, b"\0")
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([image], pa.binary()))
    table = pa.table({"image": column, "label": pa.array([0, 1] * (count // 2))})
    pyarrow.parquet.write_table(table, path, store_schema=False)
    return path


def test_an_image_named_many_times_is_not_unpacked_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _repeated(tmp_path / "a.parquet", 400, 100_000)
    assert path.stat().st_size < 200_000
    assert len(open_dataset(path, "all")) == 400
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 1 << 20)
    reads: list[object] = []
    read = module.ParquetStore._read
    monkeypatch.setattr(module.ParquetStore, "_read", lambda *given: reads.append(given) or read(*given))
    with pytest.raises(
        UserError, match=r"a\.parquet: the images of row group 0 have more than 1048576 bytes: .*allow more"
    ):
        open_dataset(path, "all")
    assert len(reads) == 1, "a row group that is refused is not read for each of its images"


def test_a_row_group_may_be_as_large_as_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 1)
    assert len(open_dataset(parquet(tmp_path / "a.parquet", [0, 1] * 40), "all")) == 80


def test_more_rows_than_bits_are_refused_before_labels_are_read(tmp_path: Path) -> None:
    import pyarrow.parquet

    count = 2_000_000
    table = pa.table({"image": pa.nulls(count, pa.binary()), "label": pa.array(np.zeros(count, np.int64))})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < count // 8
    with pytest.raises(UserError, match="claims 2000000 rows, more than its bits"):
        open_dataset(tmp_path / "a.parquet", "all")


def test_images_keep_their_rows_across_batches(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [0, 1, 2] * 15)
    dataset = open_dataset(path, "all")
    held = [dataset.store.open(index).read() for index in range(45)]  # type: ignore[union-attr]
    assert held == [png(row, row % 3) for row in range(45)]


@pytest.mark.parametrize("flat", [False, True], ids=["struct", "bytes"])
def test_missing_bytes_are_one_skipped_image(tmp_path: Path, flat: bool) -> None:
    import pyarrow.parquet

    kept = [png(0), None, png(1), png(2)]
    images = pa.array(kept, pa.binary()) if flat else pa.array([{"bytes": data, "path": None} for data in kept])
    pyarrow.parquet.write_table(pa.table({"image": images, "label": [0, 1, 1, 0]}), tmp_path / "a.parquet")
    said: list[str] = []
    assert len(open_dataset(tmp_path / "a.parquet", "all", warn=said.append)) == 3
    assert "row 1 holds no image bytes" in said[0]


def test_images_are_named_after_their_row_in_their_own_file(tmp_path: Path) -> None:
    import pyarrow.parquet

    for number, sizes in enumerate(([3, 2], [], [4])):  # row groups of each file
        rows = sum(sizes)
        images = pa.array([png(row) for row in range(rows)], pa.binary())
        table = pa.table({"image": images, "label": pa.array([0, 1, 0, 1, 0][:rows], pa.int64())})
        with pyarrow.parquet.ParquetWriter(tmp_path / f"{number}.parquet", table.schema) as writer:
            for end, size in zip(np.cumsum(sizes), sizes):
                writer.write_table(table.slice(end - size, size))
    store = module.ParquetStore(sorted(tmp_path.iterdir()), "image")
    assert [store.identity(index) for index in range(9)] == [
        *(f"0.parquet {row}" for row in range(5)),
        *(f"2.parquet {row}" for row in range(4)),
    ]


WRITTEN: list[dict[str, object]] = [
    {},
    {"compression": "gzip", "use_dictionary": False},
    {"data_page_version": "2.0", "data_page_size": 500, "write_page_checksum": True},
    {"compression": "none", "row_group_size": 30},
]


@pytest.mark.parametrize("options", WRITTEN, ids=lambda options: "-".join(options) or "default")
def test_pages_are_found_where_they_lie(tmp_path: Path, options: dict[str, object]) -> None:
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    rows = [{"bytes": png(row), "path": f"{row}.png" if row % 3 else None} for row in range(100)]
    table = pa.table({"image": rows, "label": list(range(100))})
    pyarrow.parquet.write_table(table, path, **options)
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    groups = chunks_of(path)
    assert len(groups) == metadata.num_row_groups
    for group, chunks in enumerate(groups):
        assert len(chunks) == metadata.num_columns
        for index, chunk in enumerate(chunks):
            column = metadata.row_group(group).column(index)
            assert chunk.size == column.total_compressed_size
            size = unpacked_size(path, [chunk], 1 << 40)
            assert size <= column.total_uncompressed_size <= size + 1000 * metadata.num_rows  # which counts headers
    whole = unpacked_size(path, groups[0], 1 << 40)
    assert whole > unpacked_size(path, groups[0][:1], 1 << 40) >= sum(len(png(row)) for row in range(30))
    assert 10 < unpacked_size(path, groups[0], 10) <= whole


def test_what_a_column_claims_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    images = [png(row).ljust(1 << 18, b"\0") for row in range(4)]
    pyarrow.parquet.write_table(pa.table({"image": images}), path, compression="gzip", use_dictionary=False)
    claimed = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    said, small, data = b"", b"", path.read_bytes()
    for value in (2 * claimed, 2 * 100):  # as Thrift writes them, of as many bytes
        said, small = small, bytes(value >> shift & 127 | 128 for shift in (0, 7, 14)) + bytes([value >> 21])
    assert data.count(said) >= 1
    path.write_bytes(data.replace(said, small))
    assert pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 100
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 1 << 19)
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="the images of row group 0 have more than 524288 bytes"):
        module.ParquetStore([path], "image").open(0)


def test_a_damaged_footer_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    data = parquet(path, [0, 1, 0, 1]).read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    found: set[int | str] = set()
    for at in range(start, len(data) - 8, 13):
        for value in (0, 255):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try:
                found.add(len(chunks_of(path)))
            except UserError as error:
                found.add(str(error))
    assert f"{path} is not a whole parquet file, copy or download it again" in found
    assert 1 in found


def test_a_page_of_labels_is_measured_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    path, count = tmp_path / "a.parquet", 1000
    table = pa.table({"label": pa.array(np.zeros(count, np.int64))})
    pyarrow.parquet.write_table(table, path, compression="gzip", use_dictionary=False)
    rows, few = bytes((2 * count & 127 | 128, 2 * count >> 7)), bytes((6 | 128, 0))  # as Thrift writes 1000, and 3
    path.write_bytes(path.read_bytes().replace(rows, few))
    assert pyarrow.parquet.ParquetFile(path).metadata.num_rows == 3
    assert module.parquet_labels([path], "label").tolist() == [0, 0, 0]
    monkeypatch.setattr(module, "MAX_GROUP_BYTES", 4000)
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="whose labels alone have more than 4000 bytes"):
        module.parquet_labels([path], "label")


def test_columns_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    images = pa.array([png(row) for row in range(4)], pa.binary())
    pyarrow.parquet.write_table(pa.table({"image": images}), path, row_group_size=1, compression="none")
    starts = [group[0].start for group in chunks_of(path)]
    said = [bytes((2 * at & 127 | 128, 2 * at >> 7)) for at in starts[1:3]]  # as Thrift writes them
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:footer] + data[footer:].replace(said[1], said[0]))
    with pytest.raises(UserError, match=r"a\.parquet has columns that share their bytes: write it again"):
        module.ParquetStore([path], "image").open(0)


def test_a_chunk_of_many_empty_pages_is_read_in_small_steps(tmp_path: Path) -> None:
    header = bytes((0x15, 0, 0x15, 0, 0x15, 0, 0))  # kind 0, nothing unpacked, nothing packed
    path = tmp_path / "pages"
    path.write_bytes(header * 20_000)
    assert unpacked_size(path, [Chunk(0, path.stat().st_size)], 1) == 0


def test_texts_of_a_page_header_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "page"
    for size, taken in ((100, True), (1 << 21, False)):
        text = bytes(byte for at in range(0, 28, 7) if (byte := size >> at & 127 | 128))[:3] + bytes([size >> 21])
        path.write_bytes(bytes((0x15, 0, 0x15, 14, 0x15, 0, 0x28)) + text + b"\xff" * size + bytes(1))
        if taken:
            assert unpacked_size(path, [Chunk(0, 10)], 100) == 7
        else:
            with pytest.raises(UserError, match="is not a whole parquet file"):
                unpacked_size(path, [Chunk(0, 10)], 100)
