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

_STAGES = (StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),)
SPEC = ModelSpec(name="plain", img_size=(8, 12), patch=2, num_classes=4, stages=_STAGES)
"""The model of the file that the fixture `path` gives."""


def call(*words: str | Path, **options: Any) -> str:
    """Run a command that must succeed and return its output."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
