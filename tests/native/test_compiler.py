"""What a build says where the C++ compiler is missing or too old."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.c_library import CMAKE, ROOT

pytestmark = pytest.mark.skipif(CMAKE is None or os.name != "posix", reason="needs cmake and a shell")


def configured(folder: Path, compiler: Path | str) -> str:
    """What CMake says on the way to its failure, in one line."""
    environment = {**os.environ, "CXX": str(compiler)}
    environment.pop("CMAKE_CXX_COMPILER_LAUNCHER", None)
    result = subprocess.run(
        [str(CMAKE), "-S", ROOT, "-B", folder / "build"], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode != 0
    return " ".join(result.stderr.split())


def test_without_a_compiler_the_build_says_what_to_install(tmp_path: Path) -> None:
    for name in (tmp_path / "absent-c++", "absent-c++ -O2"):
        said = configured(tmp_path, name)
        assert "there is no C++ compiler" in said
        assert "GCC 10, clang 13 or newer, such as `apt install g++`" in said
        assert "docs/tutorials/deploy.md" in said


def test_a_compiler_of_an_older_standard_is_named(tmp_path: Path) -> None:
    real = shutil.which(os.environ.get("CXX", "c++"))
    if real is None:
        pytest.skip("needs a C++ compiler")
    old = tmp_path / "old-c++"
    old.write_text(f'#!/bin/sh\nexec {real} "$@" -std=c++14\n')
    old.chmod(0o755)
    said = configured(tmp_path, old)
    assert f"bhvit is written in C++20, which {old}" in said
    assert "GCC 10, clang 13 or newer" in said


def test_a_clang_without_its_scanner_of_modules_will_do(tmp_path: Path) -> None:
    """CMake from 3.28 on has clang from 16 on look for modules, in the check of the compiler as well.

    `python tools/wheels.py aarch64` builds with such a clang, zig's, whose first run takes minutes.
    """
    checks = (ROOT / "cmake" / "compiler.cmake").read_text()
    assert checks.index("set(CMAKE_CXX_SCAN_FOR_MODULES OFF)") < checks.index("check_cxx_source_compiles")
