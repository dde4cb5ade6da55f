"""Answers do not depend on the locale or the floating-point settings that other libraries leave behind."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bhvit import Session
from bhvit._native import available_isas
from bhvit.format import file as bhv_file
from bhvit.runtime.saliency import METHODS
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_images, random_model
from helpers.small_specs import LABELS

STAGES = (
    StageSpec(depth=1, channels=64, hidden=128, mixer="conv"),
    StageSpec(depth=1, channels=64, hidden=64, mixer="attention", heads=2, window=(2, 2)),
)
SPEC = ModelSpec(name="plain", img_size=(8, 16), patch=2, num_classes=4, stages=STAGES)
PICTURE = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="sets MXCSR as glibc on x86-64 lays it out"
)


def _set_mxcsr(bits: int) -> None:
    """Set this thread's control and status word of SSE, by way of the C library's fenv_t."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    environment = ctypes.create_string_buffer(32)
    assert libm.fegetenv(environment) == 0
    struct.pack_into("<I", environment, 28, bits)
    assert libm.fesetenv(environment) == 0


def _mxcsr() -> int:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    environment = ctypes.create_string_buffer(32)
    libm.fegetenv(environment)
    found: int = struct.unpack_from("<I", environment, 28)[0]
    return found


DEFAULT = 0x1F80
SETTINGS = {
    "down": DEFAULT | 0x2000,
    "up": DEFAULT | 0x4000,
    "toward zero": DEFAULT | 0x6000,
    "flush to zero": DEFAULT | 0x8000,
    "denormals are zero": DEFAULT | 0x0040,
    "all": DEFAULT | 0xE040,
}


@pytest.fixture(params=list(SETTINGS.values()), ids=list(SETTINGS))
def other_settings(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    yield lambda: _set_mxcsr(request.param)
    _set_mxcsr(DEFAULT)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose classifier works on subnormal numbers, which flushing would make zero."""
    model = random_model(SPEC)
    tensors = dict(model.tensors)
    for name in ("head.norm_scale", "head.norm_shift", "head.bias"):
        tensors[name] = tensors[name] * np.float32(1e-39)
    path = tmp_path_factory.mktemp("models") / "subnormal.bhv"
    bhv_file.write(bhv_file.PackedModel(**{**vars(model), "tensors": tensors}), path)
    return path


@needs_x86
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", available_isas())
def test_the_callers_settings_change_no_bit(
    path: Path, isa: str, threads: int, other_settings: Callable[[], None]
) -> None:
    images = random_images(SPEC, 4)
    session = Session(path, threads, isa)
    expected = session(images)
    assert (np.abs(expected) < 1e-37).all()
    assert (expected != 0).all()
    other_settings()
    before = _mxcsr() & ~0x3F
    answer = session(images)
    opened = Session(path, threads, isa)  # its workers inherit the settings of this thread
    inputs = session.preprocess(PICTURE)
    classes = session.classify(PICTURE)
    assert _mxcsr() & ~0x3F == before  # the caller's settings are as they were
    _set_mxcsr(DEFAULT)
    assert answer.tobytes() == expected.tobytes()
    assert opened(images).tobytes() == expected.tobytes()
    assert inputs.tobytes() == session.preprocess(PICTURE).tobytes()
    assert classes == session.classify(PICTURE)


@needs_x86
def test_they_change_no_bit_of_explanations_features_and_labels(other_settings: Callable[[], None]) -> None:
    session, labels = Session(bhv_file.to_bytes(random_model(SPEC))), Session(bhv_file.to_bytes(random_model(LABELS)))

    def found() -> list[bytes]:
        heat = [session.explain(PICTURE, method).heat.tobytes() for method in METHODS]
        maps = [labels.segment(PICTURE, windows=windows).tobytes() for windows in (False, True)]
        return [*heat, *maps, session.embed(PICTURE[None]).tobytes()]

    expected = found()
    other_settings()
    under_others = found()
    _set_mxcsr(DEFAULT)
    assert under_others == expected


@pytest.mark.parametrize(
    "name", ["de_DE", *(pytest.param(name, marks=pytest.mark.long) for name in ("fr_FR", "ps_AF"))]
)
def test_a_locale_with_another_decimal_point(path: Path, tmp_path: Path, name: str) -> None:
    made = subprocess.run(
        ["localedef", "-i", name, "-f", "UTF-8", str(tmp_path / f"{name}.UTF-8")], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs localedef and its sources")
    code = (
        "import locale, sys\n"
        f"locale.setlocale(locale.LC_ALL, '{name}.UTF-8')\n"
        "assert locale.localeconv()['decimal_point'] != '.'\n"
        "import bhvit, numpy\n"
        "from bhvit.format import file\n"
        f"session = bhvit.Session({str(path)!r})\n"
        f"assert file.read({str(path)!r}).preprocess == file.describe(session.program.header).preprocess\n"
        "print(session.preprocess(numpy.full((8, 16, 3), 200, numpy.uint8)).mean())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": f"{name}.UTF-8"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    wanted = Session(path).preprocess(np.full((8, 16, 3), 200, np.uint8)).mean()
    assert run.stdout.strip() == str(wanted)
