"""The C library as CMake alone builds and installs it, and a file for it to open."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from bhvit.format import file as bhv_file
from helpers.c_library import CMAKE, ROOT, SANITIZE, SPEC, call
from helpers.random_model import random_model


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, built without Python and without slow-to-compile kernels, and installed."""
    if CMAKE is None:
        pytest.skip("needs cmake")
    build, prefix = ROOT / "build" / ("c-sanitized" if SANITIZE else "c-plain"), tmp_path_factory.mktemp("c") / "prefix"
    build.mkdir(parents=True, exist_ok=True)
    with FileLock(build / ".lock"):  # another process that runs tests may be building it
        options = ("-DBHVIT_SIMD=OFF", "-DBHVIT_OPTIMIZE=1", "-DBHVIT_WARNINGS_AS_ERRORS=ON")
        call(CMAKE, "-S", ROOT, "-B", build, *options, f"-DBHVIT_SANITIZE={SANITIZE}")
        call(CMAKE, "--build", build)
        call(CMAKE, "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain.bhv"
    bhv_file.write(random_model(SPEC), path)
    return path
