"""`bhvit classify` over every kind of source, into files, and after interruptions."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bhvit import Session
from helpers.images import class_folders, png, zipped
from helpers.videos import serving, video


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = class_folders(tmp_path / "photos", count=4)
    (root / "cat" / "002.png").write_bytes(b"\x89PNG")
    return root


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_in_a_file_are_those_on_the_screen(bhvit, photos, tmp_path):
    answers = json.loads(bhvit("classify", photos, "--json").out)
    answer = bhvit("classify", photos, "--out", tmp_path / "a.jsonl", "--workers", 3)
    assert (answer.status, answer.out) == (2, "")
    assert "1 of 8 images could not be read" in answer.err
    assert "8 images in " in answer.err
    assert lines(tmp_path / "a.jsonl") == answers
    assert bhvit("classify", photos, "--out", tmp_path / "a.csv", "--top", 2).status == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "seconds", "error", "class_1", "probability_1", "class_2", "probability_2"]
    for row, record in zip(rows, answers, strict=True):
        assert row["image"] == record["image"]
        assert row["error"] == record.get("error", "")
        if "classes" in record:
            assert row["class_2"] == record["classes"][1]["name"]
            assert float(row["probability_1"]) == record["classes"][0]["probability"]


def test_archives_videos_addresses_and_lists(bhvit, photos, tmp_path, monkeypatch):
    (photos / "cat" / "002.png").unlink()
    archive = zipped(tmp_path / "photos.zip", photos)
    clip = video(tmp_path / "clip.mp4")
    listed = io.TextIOWrapper(io.BytesIO(f"{photos}/cat/000.png\n".encode()))
    monkeypatch.setattr(sys, "stdin", listed)
    with serving(**{"a.png": ("image/png", png(1))}) as at:
        answer = bhvit("classify", "cifar10", archive, clip, f"{at}/a.png", "-", "--every", 6, "--json")
    answers = json.loads(answer.out)
    assert answer.status == 0
    assert [record["image"] for record in answers[7:]] == [
        f"{clip} frame 0",
        f"{clip} frame 6",
        f"{at}/a.png",
        f"{photos}/cat/000.png",
    ]
    assert [record["seconds"] for record in answers[7:9]] == pytest.approx([0, 0.6])
    expected = Session("cifar10").classify(photos / "cat" / "000.png")
    for record in (answers[0], answers[-1]):
        assert [(answer["name"], answer["probability"]) for answer in record["classes"]] == expected


def test_a_stream_is_answered_as_it_comes(bhvit):
    with serving() as at:
        answer = bhvit("classify", f"{at}/stream?10")
        assert f"{at}/stream?10 frame " in answer.out
        assert re.search("late frames? dropped", answer.err)


def test_what_does_not_go_together_is_refused(refused, photos, tmp_path, monkeypatch):
    assert "--resume and --force are about a file" in refused("classify", photos, "--resume")
    assert "give one of them" in refused("classify", photos, "--json", "--out", tmp_path / "a.jsonl")
    assert "must end in .jsonl, .csv or .parquet" in refused("classify", photos, "--out", tmp_path / "a.txt")
    assert "an argument is empty" in refused("classify", "")
    assert "an argument is empty" in refused("classify", "cifar10", "")
    assert "0" in refused("classify", photos, "--every", 0)
    with serving() as at:
        assert "a live source has none" in refused("classify", f"{at}/stream", "--json")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "--show needs" in refused("classify", photos / "dog", "--show")


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("ray", ["--engine", "ray"], "ray"),
        ("av", ["{clip}"], "video"),
        ("pyarrow", ["--out", "{folder}/a.parquet"], "parquet"),
    ],
)
def test_missing_extras_are_named(refused, photos, tmp_path, monkeypatch, module, words, extra):
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    given = [word.format(folder=tmp_path, clip=tmp_path / "clip.mp4") for word in words]
    assert f"install bhvit with the extra '{extra}'" in refused("classify", photos / "dog", *given)


def test_a_finished_file_is_not_made_again(bhvit, refused, photos, tmp_path):
    out = tmp_path / "a.jsonl"
    bhvit("classify", photos / "dog", "--out", out)
    before = out.read_bytes()
    assert f"{out} exists; --force" in refused("classify", photos, "--out", out)
    assert "has no answer for" in refused("classify", photos, "--out", out, "--resume")
    answer = bhvit("classify", photos / "dog", "--out", out, "--resume")
    assert (answer.status, answer.err) == (0, f"bhvit: {out} is complete, and its answers are those of this model\n")
    assert out.read_bytes() == before
    assert bhvit("classify", photos, "--out", out, "--force").status == 2
    assert len(lines(out)) == 8


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_finished_file_is_compared(bhvit, refused, photos, tmp_path, ending):
    out = tmp_path / f"a.{ending}"
    assert bhvit("classify", photos, "--out", out).status == 2
    answer = bhvit("classify", photos, "--out", out, "--resume")
    assert answer.status == 2  # as the run that made it: a picture cannot be read
    assert "1 of 8 images could not be read" in answer.err
    assert bhvit("classify", photos / "dog", "--out", out, "--resume").status == 2  # a part of the pictures
    resumed = ("--out", out, "--resume")
    small = tmp_path / "small"
    class_folders(small / "photos", count=1)
    assert f"has no answer for {small}/photos/cat/000.png" in refused("classify", small / "photos", *resumed)
    changed = ("has another answer for", "other options")
    for words in (["--top", "2"], ["--top", "6"], ["--unknown"]):
        assert any(said in refused("classify", photos, *resumed, *words) for said in changed)
    assert changed[0] in refused("classify", "tinyimagenet", photos, *resumed)
    (photos / "cat" / "000.png").write_bytes(png(77))
    assert f"has another answer for {photos}/cat/000.png" in refused("classify", photos, *resumed)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("jsonl", b"mine\n"),
        ("jsonl", b'{"image": 3, "classes": 5}\n'),
        ("csv", b"image,price\na.png,3\n"),
        ("csv", b"\xff"),
        ("parquet", b"PAR1"),
        ("parquet", b""),
    ],
)
def test_a_file_of_something_else_is_not_taken_for_answers(refused, photos, tmp_path, ending, content):
    out = tmp_path / f"a.{ending}"
    out.write_bytes(content)
    assert str(out) in refused("classify", photos / "dog", "--out", out, "--resume")
    assert out.read_bytes() == content


def test_a_live_source_is_not_compared(refused, photos, tmp_path):
    bhvit_out = tmp_path / "a.jsonl"
    bhvit_out.write_text("")
    with serving() as at:
        assert "a live source cannot be compared" in refused("classify", f"{at}/stream", "--out", bhvit_out, "--resume")


STOPPING = """
import sys
from bhvit.__main__ import main
from bhvit.runtime.results import Results
real, appended = Results._append, []
def append(self, journal, line):
    real(self, journal, line)
    appended.append(line)
    if len(appended) == 1 + 100:  # the first says what made them
        print("100 records", flush=True)
        sys.stdin.read()
Results._append = append
raise SystemExit(main())
"""
"""The command line, which says when it has written 100 records and waits there for a signal."""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_nothing_is_lost_or_answered_twice(bhvit, refused, tmp_path, kill):
    root = class_folders(tmp_path / "photos", count=150)
    bhvit("classify", root, "--out", tmp_path / "whole.jsonl")
    out, journal = tmp_path / "a.jsonl", tmp_path / ".a.jsonl.journal"
    command = [sys.executable, "-c", STOPPING, "classify", str(root), "--out", str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "100 records\n"
        process.send_signal(kill)
        assert process.wait(60) == (-9 if kill == signal.SIGKILL else 130)
    assert not out.exists()
    assert journal.read_bytes().count(b"\n") == 1 + 100
    assert "--resume goes on, --force starts again" in refused("classify", root, "--out", out)
    assert "other options" in refused("classify", root, "--out", out, "--resume", "--top", 1)
    answer = bhvit("classify", root, "--out", out, "--resume")
    assert answer.status == 0
    assert "200 images in " in answer.err
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not journal.exists()


@pytest.mark.skipif(os.name != "posix", reason="a device that is full is a file of Linux")
def test_a_full_disk_is_one_line(bhvit, refused, photos, tmp_path, monkeypatch):
    import bhvit.runtime.results as results

    def full(self, journal, line):
        raise OSError(28, "No space left on device")

    out = tmp_path / "a.jsonl"
    original = results.Results._append
    calls = iter([original, original, full])
    monkeypatch.setattr(results.Results, "_append", lambda *args: next(calls)(*args))
    assert "No space left on device; --resume goes on" in refused("classify", photos / "dog", "--out", out)
    monkeypatch.setattr(results.Results, "_append", original)
    assert bhvit("classify", photos / "dog", "--out", out, "--resume").status == 0
    assert len(lines(out)) == 4
