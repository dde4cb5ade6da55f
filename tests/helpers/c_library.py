"""Build tools that tests of the C library call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bhvit.spec.model import ModelSpec, StageSpec

ROOT = Path(__file__).resolve().parents[2]

CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
"""CMake of the environment that runs the tests, which the extra `dev` brings, or another."""

SANITIZE = os.environ.get("BHVIT_SANITIZE", "")
"""Sanitizers that the C library is built with; `make check-slow` sets them."""

_STAGES = (StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),)
SPEC = ModelSpec(name="plain", img_size=(8, 12), patch=2, num_classes=4, stages=_STAGES)
"""The model of the file that the fixture `path` gives."""


def call(*words: str | Path, **options: Any) -> str:
    """Run a command that must succeed and return its output.

    Compilers run without the library that a sanitizer's tests preload.
    """
    if words[0] == CMAKE:
        options["env"] = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
