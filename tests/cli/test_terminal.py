"""What reaches the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit.format import file as bhv_file

ESCAPE = "\x1b]0;title\x07"


def _bhvit(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bhvit", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


def _renamed(model: Path, path: Path, names: tuple[str, ...]) -> Path:
    import dataclasses

    bhv_file.write(dataclasses.replace(bhv_file.read(model), class_names=names), path)
    return path


def test_control_characters_in_names_do_not_reach_the_terminal(material, tmp_path):
    model = _renamed(material.model, tmp_path / "m.bhv", tuple(f"{ESCAPE}{n}" for n in range(3)))
    picture = tmp_path / f"{ESCAPE.replace('/', '')}.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    damaged = tmp_path / f"{ESCAPE} bad.png"
    damaged.write_bytes(b"no image")
    for words in (
        ["classify", model, picture],
        ["classify", model, damaged],
        ["info", model],
        ["classify", model, picture, "--json"],
        ["eval", model, "--data", tmp_path],
    ):
        result = _bhvit(*words)
        assert b"\x1b" not in result.stdout + result.stderr, words
        assert b"Traceback" not in result.stderr, words
    answer = json.loads(_bhvit("classify", model, picture, "--json").stdout)
    assert answer[0]["classes"][0]["name"].startswith(ESCAPE)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1", "ascii"])
def test_names_that_the_encoding_lacks_are_escaped(material, tmp_path, encoding):
    model = _renamed(material.model, tmp_path / "m.bhv", ("猫", "狗", "😀"))
    picture = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(picture, "wb") as file:  # noqa: PTH123 (a name that is not UTF-8)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, "PNG")
    result = _bhvit("classify", model, os.fsdecode(picture), PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    result = _bhvit("classify", model, os.fsdecode(picture), "--json", PYTHONIOENCODING=encoding)
    names = {entry["name"] for entry in json.loads(result.stdout)[0]["classes"]}
    assert names == {"猫", "狗", "😀"}
    assert _bhvit("train", "--help", PYTHONIOENCODING=encoding).returncode == 0


_PACKING = """
import sys, threading
import bhvit.cli.pack
from bhvit import files
def wait(*_):
    print("ready", flush=True)
    threading.Event().wait(60)
files.os.fsync = wait
bhvit.cli.pack.run = lambda args: files.write_atomically(args.model, b"half")
from bhvit.__main__ import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("name", "status", "said"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_a_command_that_is_ended_leaves_no_part(tmp_path, name, status, said):
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + _PACKING
    command = [sys.executable, "-c", program, "pack", "cifar10", str(tmp_path / "a.bhv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.glob(".a.bhv.*.part"))) == 1
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.strip() == f"bhvit: {said}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_an_ignored_sigterm_stays_ignored():
    from bhvit.cli.terminal import ended_by_sigterm

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ended_by_sigterm():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
