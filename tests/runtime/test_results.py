"""Results on the disk: whole after any interruption, and each picture answered once."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bhvit.errors import UserError
from bhvit.runtime.results import Results

COLUMNS = {"image": str, "label": str, "probability": float, "error": str}
RECORDS: list[dict[str, Any]] = [
    {"image": "a.png", "label": "cat", "probability": 0.25},
    {"image": "b.png", "error": "b.png is damaged"},
    {"image": 'ü, "quoted"\n.png', "label": "dog", "probability": 1.0},
]


def row(record):
    return {name: record.get(name) for name in COLUMNS}


def results(path: Path, *, made_by: str = "model", **options) -> Results:
    return Results(path, COLUMNS, row, made_by={"model": made_by}, **options)


def read(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{k: float(v) if k == "probability" else v for k, v in row.items() if v} for row in rows]
    import pyarrow.parquet

    return [{k: v for k, v in row.items() if v is not None} for row in pyarrow.parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("interrupted", [0, 2, 3])
def test_written_and_resumed(tmp_path: Path, ending: str, interrupted: int) -> None:
    path = tmp_path / f"out.{ending}"
    if interrupted:
        first = results(path)
        for record in RECORDS[:interrupted]:
            first.write(record)
        first.close()
        assert not path.exists()
    second = results(path, resume=interrupted > 0)
    assert dict(second.done) == {record["image"]: 1 for record in RECORDS[:interrupted]}
    assert second.failed == (interrupted >= 2)
    for record in RECORDS[interrupted:]:
        second.write(record)
    second.finish()
    assert read(path) == RECORDS
    assert list(tmp_path.iterdir()) == [path]
    assert results(path, resume=True).complete


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_last_line_that_is_not_whole_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    first = results(path)
    for record in RECORDS:
        first.write(record)
    first.close()
    journal = tmp_path / ".out.jsonl.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    second = results(path, resume=True)
    for record in RECORDS:
        if not second.done[record["image"]]:
            second.write(record)
    second.finish()
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[1:])


def test_a_journal_without_a_whole_header_starts_again(tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.journal").write_bytes(b'{"mod')
    again = results(tmp_path / "out.jsonl", resume=True)
    again.write(RECORDS[0])
    again.finish()
    assert read(tmp_path / "out.jsonl") == RECORDS[:1]


def test_an_interrupted_run_is_not_lost_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first = results(path)
    first.write(RECORDS[0])
    with pytest.raises(UserError, match="another run is writing"):
        results(path, resume=True)
    first.close()
    with pytest.raises(UserError, match="--resume goes on, --force starts again"):
        results(path)
    with pytest.raises(UserError, match="begun with another model or other options"):
        results(path, made_by="another", resume=True)
    again = results(path, made_by="another", force=True)
    assert not again.done
    again.write(RECORDS[1])
    again.finish()
    assert read(path) == RECORDS[1:2]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for name, said in [
        ("out.txt", r"must end in \.jsonl, \.csv or \.parquet"),
        ("old.csv", "exists; --force"),
        ("absent/out.csv", "does not exist"),
        ("folder.csv", "it is a folder"),
    ]:
        with pytest.raises(UserError, match=said):
            results(tmp_path / name)
    assert (tmp_path / "old.csv").read_text() == "mine"


def test_a_link_stays_and_its_file_is_replaced_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (far / "real.csv").write_text("old")
    path = tmp_path / "out.csv"
    path.symlink_to(far / "real.csv")
    moved: list[tuple[Path, Path]] = []
    replace = Path.replace

    def within_a_file_system(self: Path, target: Path) -> Path:
        moved.append((self, Path(target)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", within_a_file_system)
    written = results(path, force=True)
    written.write(RECORDS[0])
    written.finish()
    assert path.is_symlink()
    assert read(far / "real.csv") == RECORDS[:1]
    assert [(source.parent, target.parent) for source, target in moved] == [(far, far)]


def test_file_systems_without_locks_and_flushing_get_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    written = results(tmp_path / "out.csv")
    written.write(RECORDS[0])
    written.finish()
    assert read(tmp_path / "out.csv") == RECORDS[:1]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_full_disk_is_one_line_and_the_journal_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    written = results(tmp_path / f"out.{ending}")
    for record in RECORDS:
        written.write(record)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device; --resume goes on"):
            written.finish()
    written.close()
    assert [path.name for path in tmp_path.iterdir()] == [f".out.{ending}.journal"]
    again = results(tmp_path / f"out.{ending}", resume=True)
    assert sum(again.done.values()) == len(RECORDS)
    again.finish()
    assert read(tmp_path / f"out.{ending}") == RECORDS


DAMAGES = [
    b"not json\n",
    b'{"image": 3}\n',
    b"[1]\n",
    b"[" * 100_000 + b"\n",
    b'{"image": "c.png", "label": ["cat"]}\n',
    b'{"image": "c.png", "probability": "much"}\n',
    b'{"image": "c.png", "probability": ' + b"9" * 400 + b"}\n",
    b'{"image": "c.png", "error": {}}\n',
    b'{"image": "c.png", "x": ' + b"9" * 5000 + b"}\n",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_named(tmp_path: Path, damage: bytes) -> None:
    first = results(tmp_path / "out.jsonl")
    first.write(RECORDS[0])
    first.close()
    with (tmp_path / ".out.jsonl.journal").open("ab") as journal:
        journal.write(damage)
    with pytest.raises(UserError, match="is damaged in line 3: --force starts again"):
        results(tmp_path / "out.jsonl", resume=True)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_names_that_are_no_text(tmp_path: Path, ending: str) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    first = results(tmp_path / f"out.{ending}")
    first.write({"image": name, "label": "cat", "probability": 0.5})
    first.close()
    again = results(tmp_path / f"out.{ending}", resume=True)
    assert again.done[name] == 1
    again.finish()
    assert read(tmp_path / f"out.{ending}")[0]["label"] == "cat"
