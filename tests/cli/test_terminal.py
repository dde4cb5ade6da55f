"""What reaches the terminal."""

from __future__ import annotations

import json
import os
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
