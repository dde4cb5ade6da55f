"""The C API: contract, errors, an installed package, and the example's answers against Python's."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session
from bhvit.calibration import fit
from bhvit.format import file as bhv_file
from bhvit.runtime import label_maps
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.c_library import ROOT, SPEC, call
from helpers.random_model import random_images, random_model

HEADER = ROOT / "native" / "api" / "bhvit.h"
OK, ARGUMENT, FILE, FORMAT, MEMORY = range(5)


class Info(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("channels", "height", "width", "classes", "image_floats")),
        *((name, ctypes.c_size_t) for name in ("cover_height", "cover_width")),
        ("interpolation", ctypes.c_char_p),
        ("mean", ctypes.POINTER(ctypes.c_double)),
        ("std", ctypes.POINTER(ctypes.c_double)),
        ("isa", ctypes.c_char_p),
        ("threads", ctypes.c_int),
    )


@pytest.fixture(scope="session")
def library(prefix: Path) -> ctypes.CDLL:
    found = next(prefix.glob("lib*/**/libbhvit.so"), None) or next(prefix.glob("lib*/**/libbhvit.dylib"))
    library = ctypes.CDLL(str(found))
    for name in ("version", "error", "class_name", "task"):
        getattr(library, f"bhvit_{name}").restype = ctypes.c_char_p
    library.bhvit_close.restype = None
    size, pointer, number = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    library.bhvit_open_file.argtypes = (ctypes.c_char_p, number, ctypes.c_char_p, pointer)
    library.bhvit_open_memory.argtypes = (pointer, size, number, ctypes.c_char_p, pointer)
    library.bhvit_open_file_with.argtypes = (ctypes.c_char_p, pointer, pointer)
    library.bhvit_open_memory_with.argtypes = (pointer, size, pointer, pointer)
    library.bhvit_close.argtypes = (pointer,)
    library.bhvit_get_info.argtypes = (pointer, pointer)
    library.bhvit_class_name.argtypes = (pointer, size)
    library.bhvit_normalize.argtypes = (pointer, pointer, size, size, size, pointer, size)
    library.bhvit_preprocess.argtypes = (pointer, pointer, size, size, size, size, pointer, size)
    library.bhvit_run.argtypes = (pointer, size, pointer, size, pointer, size)
    library.bhvit_segment.argtypes = (pointer, size, pointer, size, pointer, size)
    library.bhvit_task.argtypes = (pointer,)
    library.bhvit_resize_labels.argtypes = (pointer, size, size, size, pointer, size, size, size)
    library.bhvit_feature_count.argtypes = (pointer,)
    library.bhvit_feature_count.restype = size
    library.bhvit_embed.argtypes = (pointer, size, pointer, size, pointer, size)
    library.bhvit_probabilities.argtypes = (pointer, size, pointer, size, pointer, size)
    library.bhvit_unknown.argtypes = (pointer, ctypes.c_double, size, pointer, size, pointer, size)
    return library


@pytest.fixture
def session(library: ctypes.CDLL, path: Path) -> Iterator[ctypes.c_void_p]:
    session = ctypes.c_void_p()
    assert library.bhvit_open_file(bytes(path), 2, None, ctypes.byref(session)) == OK, library.bhvit_error()
    yield session
    library.bhvit_close(session)


def address(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def run(library: ctypes.CDLL, session: ctypes.c_void_p, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    logits = np.empty((len(images), 4), np.float32)
    status = library.bhvit_run(session, len(images), address(images), images.size, address(logits), logits.size)
    assert status == OK, library.bhvit_error()
    return logits


def test_one_version() -> None:
    header = HEADER.read_text()
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'#define BHVIT_VERSION "(.*)"', header) == re.findall(r'^version = "(.*)"', project, re.M)


def test_the_header_is_c_and_cplusplus() -> None:
    for compiler, *options in (("cc", "-std=c99", "-x", "c"), ("c++", "-std=c++11", "-x", "c++")):
        if shutil.which(compiler):
            call(
                compiler,
                *options,
                "-pedantic",
                "-Wall",
                "-Werror",
                "-fsyntax-only",
                HEADER,
            )


def test_only_its_own_names_are_visible(prefix: Path, library: ctypes.CDLL) -> None:
    if shutil.which("nm") is None or not library._name.endswith(".so"):
        pytest.skip("needs nm and ELF")
    names = [line.split()[-1] for line in call("nm", "-D", "--defined-only", library._name).splitlines()]
    assert names
    assert all(name.startswith("bhvit_") for name in names)
    header = HEADER.read_text()
    assert sorted(names) == sorted(set(re.findall(r"BHVIT_API [^;]*?\b(bhvit_\w+)\(", header)))
    assert not [p for p in prefix.rglob("*") if p.suffix == ".py" or "_native" in p.name]


def test_what_a_session_knows(library: ctypes.CDLL, session: ctypes.c_void_p, path: Path) -> None:
    info = Info()
    assert library.bhvit_get_info(session, ctypes.byref(info)) == OK
    assert (info.channels, info.height, info.width, info.classes, info.image_floats) == (3, 8, 12, 4, 288)
    assert (info.cover_height, info.cover_width, info.interpolation) == (8, 12, b"bicubic")
    assert (info.mean[:3], info.std[:3]) == ([0.5] * 3, [0.25] * 3)
    assert (info.isa, info.threads) == (b"scalar", 2)
    assert [library.bhvit_class_name(session, i) for i in range(4)] == [f"class {i}".encode() for i in range(4)]
    assert library.bhvit_version().decode() == re.findall(r'BHVIT_VERSION "(.*)"', HEADER.read_text())[0]


def test_logits_are_those_of_python(library: ctypes.CDLL, session: ctypes.c_void_p, path: Path) -> None:
    images = random_images(SPEC, 3)
    expected = Session(path)(images)
    np.testing.assert_array_equal(run(library, session, images), expected)
    assert run(library, session, images[:0]).shape == (0, 4)
    assert library.bhvit_run(session, 0, None, 0, None, 0) == OK
    data, copied = path.read_bytes(), ctypes.c_void_p()
    block = np.frombuffer(b"\0" + data, np.uint8)[1:].copy()
    assert library.bhvit_open_memory(address(block), len(data), 1, b"scalar", ctypes.byref(copied)) == OK
    block[:] = 0  # not needed any more
    np.testing.assert_array_equal(run(library, copied, images), expected)
    library.bhvit_close(copied)


@pytest.mark.parametrize("score", ["energy", "max_logit"])
def test_probabilities_and_unknown_images_are_those_of_python(library: ctypes.CDLL, tmp_path: Path, score: Any) -> None:
    rng, path, session = np.random.default_rng(0), tmp_path / "model.bhv", ctypes.c_void_p()
    logits = rng.normal(0, 3, (200, 4)).astype(np.float32)
    calibration = fit(logits, rng.integers(0, 4, 200), score)
    bhv_file.write(dataclasses.replace(random_model(SPEC), calibration=calibration), path)
    assert library.bhvit_open_file(bytes(path), 1, None, ctypes.byref(session)) == OK
    found, unknown = np.empty_like(logits), np.empty(200, np.uint8)
    sizes = (200, address(logits), logits.size)
    assert library.bhvit_probabilities(session, *sizes, address(found), found.size) == OK
    expected = Session(path).probabilities(logits)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-30)
    for miss_rate in (0.0, 0.05, 0.333, 1.0):
        assert library.bhvit_unknown(session, miss_rate, *sizes, address(unknown), 200) == OK
        assert unknown.tolist() == Session(path).unknown(logits, miss_rate).tolist()
    for said, *arguments in (
        ("miss_rate must be from 0 to 1", -0.1, *sizes, address(unknown), 200),
        ("miss_rate must be from 0 to 1", float("nan"), *sizes, address(unknown), 200),
        ("unknown must hold 200 values", 0.1, *sizes, address(unknown), 199),
        ("logits must hold", 0.1, 201, *sizes[1:], address(unknown), 201),
    ):
        assert library.bhvit_unknown(session, *arguments) == ARGUMENT
        assert said in library.bhvit_error().decode()
    assert library.bhvit_probabilities(session, *sizes, address(logits), logits.size) == OK  # in place
    np.testing.assert_array_equal(logits, found)
    library.bhvit_close(session)


def test_a_file_may_be_replaced_while_it_is_open(library: ctypes.CDLL, path: Path, tmp_path: Path) -> None:
    copy, session, images = tmp_path / "model.bhv", ctypes.c_void_p(), random_images(SPEC, 1)
    bhv_file.write(random_model(SPEC), copy)
    expected = Session(copy)(images)
    assert library.bhvit_open_file(bytes(copy), 1, None, ctypes.byref(session)) == OK
    bhv_file.write(random_model(SPEC, seed=1), copy)
    np.testing.assert_array_equal(run(library, session, images), expected)
    copy.unlink()
    np.testing.assert_array_equal(run(library, session, images), expected)
    library.bhvit_close(session)


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (11, 17), (30, 12)])
def test_normalisation_is_that_of_python(
    library: ctypes.CDLL, session: ctypes.c_void_p, path: Path, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = np.empty((1, 3, 8, 12), np.float32)
    assert library.bhvit_normalize(session, address(pixels), pixels.size, *size, address(image), image.size) == OK
    top, left = round((size[0] - 8) / 2), round((size[1] - 12) / 2)
    centre = np.ascontiguousarray(pixels[top : top + 8, left : left + 12])
    np.testing.assert_array_equal(image, Session(path).preprocess(centre))


def test_wrong_arguments(library: ctypes.CDLL, session: ctypes.c_void_p, path: Path) -> None:
    a = np.zeros(4 * 288, np.float32)
    buffer, opened, info, name = address(a), ctypes.c_void_p(), Info(), bytes(path)
    out = ctypes.byref(opened)
    most = 2**64 - 1
    for status, said, function, *arguments in (
        (ARGUMENT, "path must not be null", library.bhvit_open_file, None, 1, None, out),
        (ARGUMENT, "session must not be null", library.bhvit_open_file, name, 1, None, None),
        (ARGUMENT, "threads must be 1 to 256, not 0", library.bhvit_open_file, name, 0, None, out),
        (ARGUMENT, "threads must be 1 to 256, not 257", library.bhvit_open_file, name, 257, None, out),
        (ARGUMENT, "'x?y' is not one", library.bhvit_open_file, name, 1, b"x\ny", out),
        (FILE, "cannot read /absent/m.bhv: No such file", library.bhvit_open_file, b"/absent/m.bhv", 1, None, out),
        (FILE, "Is a directory", library.bhvit_open_file, bytes(path.parent), 1, None, out),
        (FILE, "a pipe or a device", library.bhvit_open_file, b"/dev/null", 1, None, out),
        (FILE, "a pipe or a device", library.bhvit_open_file, b"/dev/zero", 1, None, out),
        (ARGUMENT, "bytes must not be null", library.bhvit_open_memory, None, 9, 1, None, out),
        (FORMAT, "not a .bhv file", library.bhvit_open_memory, buffer, 0, 1, None, out),
        (FORMAT, "not a .bhv file", library.bhvit_open_memory, buffer, a.nbytes, 1, None, out),
        (ARGUMENT, "session must not be null", library.bhvit_get_info, None, ctypes.byref(info)),
        (ARGUMENT, "info must not be null", library.bhvit_get_info, session, None),
        (None, "no class 4: the model has 4", library.bhvit_class_name, session, 4),
        (None, "session must not be null", library.bhvit_class_name, None, 0),
        (ARGUMENT, "session must not be null", library.bhvit_run, None, 1, buffer, 288, buffer, 4),
        (ARGUMENT, "images must not be null", library.bhvit_run, session, 1, None, 288, buffer, 4),
        (ARGUMENT, "logits must not be null", library.bhvit_run, session, 1, buffer, 288, None, 4),
        (ARGUMENT, "images must hold 288 values, not 287", library.bhvit_run, session, 1, buffer, 287, buffer, 4),
        (ARGUMENT, "logits must hold 8 values, not 4", library.bhvit_run, session, 2, buffer, 576, buffer, 4),
        (ARGUMENT, "images must hold", library.bhvit_run, session, most, buffer, 288, buffer, 4),
        (ARGUMENT, "images must hold", library.bhvit_run, session, most // 288 + 1, buffer, 0, buffer, 4),
        (ARGUMENT, "smaller than the model's 8x12", library.bhvit_normalize, session, buffer, 252, 7, 12, buffer, 288),
        (ARGUMENT, "pixels must hold 288", library.bhvit_normalize, session, buffer, 287, 8, 12, buffer, 288),
        (ARGUMENT, "image must hold 288", library.bhvit_normalize, session, buffer, 288, 8, 12, buffer, 287),
        (ARGUMENT, "pixels must not be null", library.bhvit_normalize, session, None, 288, 8, 12, buffer, 288),
        (ARGUMENT, "pixels must hold", library.bhvit_normalize, session, buffer, 288, most, most, buffer, 288),
        (ARGUMENT, "session must not be null", library.bhvit_probabilities, None, 1, buffer, 4, buffer, 4),
        (ARGUMENT, "logits must hold 4 values", library.bhvit_probabilities, session, 1, buffer, 5, buffer, 4),
        (ARGUMENT, "logits must not be null", library.bhvit_probabilities, session, 1, None, 4, buffer, 4),
        (ARGUMENT, "probabilities must hold 4", library.bhvit_probabilities, session, 1, buffer, 4, buffer, 3),
        (ARGUMENT, "probabilities must not be", library.bhvit_probabilities, session, 1, buffer, 4, None, 4),
        (ARGUMENT, "session must not be null", library.bhvit_unknown, None, 0.1, 1, buffer, 4, buffer, 1),
        (ARGUMENT, "was not calibrated", library.bhvit_unknown, session, 0.1, 1, buffer, 4, buffer, 1),
        (ARGUMENT, "session must not be null", library.bhvit_normalize, None, buffer, 288, 8, 12, buffer, 288),
        (ARGUMENT, "a picture of 2 channels", library.bhvit_preprocess, session, buffer, 288, 8, 12, 2, buffer, 288),
        (ARGUMENT, "1 to 1048576 pixels", library.bhvit_preprocess, session, buffer, 0, 0, 12, 3, buffer, 288),
        (ARGUMENT, "1 to 1048576 pixels", library.bhvit_preprocess, session, buffer, 0, most, 1, 3, buffer, 288),
        (ARGUMENT, "pixels must hold 288", library.bhvit_preprocess, session, buffer, 384, 8, 12, 3, buffer, 288),
        (ARGUMENT, "image must hold 288", library.bhvit_preprocess, session, buffer, 288, 8, 12, 3, buffer, 287),
        (ARGUMENT, "pixels must not be null", library.bhvit_preprocess, session, None, 288, 8, 12, 3, buffer, 288),
        (ARGUMENT, "session must not be null", library.bhvit_preprocess, None, buffer, 288, 8, 12, 3, buffer, 288),
    ):
        opened.value = 1
        assert function(*arguments) == status, said
        assert said in library.bhvit_error().decode()
        assert opened.value is None or out not in arguments
    a[7] = np.nan
    assert library.bhvit_run(session, 1, buffer, 288, address(np.zeros(4, np.float32)), 4) == ARGUMENT
    assert b"NaN" in library.bhvit_error()
    library.bhvit_close(None)


def test_a_pipe_is_refused_without_waiting(library: ctypes.CDLL, path: Path, tmp_path: Path) -> None:
    pipe, session = tmp_path / "pipe", ctypes.c_void_p(1)
    os.mkfifo(pipe)
    assert library.bhvit_open_file(bytes(pipe), 1, None, ctypes.byref(session)) == FILE
    assert b"a pipe or a device" in library.bhvit_error()
    assert session.value is None


def test_an_error_holds_no_control_characters_of_a_path(library: ctypes.CDLL, tmp_path: Path) -> None:
    session = ctypes.c_void_p(1)
    name = os.fsencode(tmp_path) + "/a\x1b[2J\x7f\x9b1m\u00a0é\n.bhv".encode()
    assert library.bhvit_open_file(name, 1, None, ctypes.byref(session)) == FILE
    assert "/a?[2J???1m\u00a0é?.bhv" in library.bhvit_error().decode()


class Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int),
        ("isa", ctypes.c_char_p),
        ("max_memory", ctypes.c_uint64),
        ("mapping", ctypes.c_int),
    )


def test_options(library: ctypes.CDLL, path: Path) -> None:
    data, images = path.read_bytes(), random_images(SPEC, 2)
    block = np.frombuffer(data, np.uint8)
    expected, needed = Session(path)(images), Session(path.read_bytes(), isa="scalar").program.memory_bytes

    def open_both(options: Options | None, status: int, said: bytes = b"") -> None:
        given = None if options is None else ctypes.byref(options)
        for function, *source in (
            (library.bhvit_open_file_with, bytes(path)),
            (library.bhvit_open_memory_with, address(block), ctypes.c_size_t(len(data))),
        ):
            session = ctypes.c_void_p(1)
            assert function(*source, given, ctypes.byref(session)) == status, library.bhvit_error()
            if status == OK:
                np.testing.assert_array_equal(run(library, session, images), expected)
            else:
                assert said in library.bhvit_error()
                assert session.value is None
            library.bhvit_close(session)

    size = ctypes.sizeof(Options)
    open_both(None, OK)
    open_both(Options(size, 2, b"scalar", 0, 0), OK)
    open_both(Options(size, 1, None, needed, 1), OK)
    open_both(Options(size, 1, None, 1 << 40, 2), OK)
    open_both(Options(size, 1, None, needed // 2, 0), MEMORY, b"raise max_memory")
    open_both(Options(size, 1, None, 1, 0), MEMORY, b"raise max_memory")
    open_both(Options(size - 1, 1, None, 0, 0), ARGUMENT, b"BHVIT_OPTIONS")
    open_both(Options(size, 0, None, 0, 0), ARGUMENT, b"threads must be 1 to 256")
    open_both(Options(size, 1, b"altivec", 0, 0), ARGUMENT, b"altivec")
    open_both(Options(size, 1, None, 0, 3), ARGUMENT, b"mapping")


def test_a_file_that_is_overwritten_while_it_is_open(library: ctypes.CDLL, path: Path, tmp_path: Path) -> None:
    copy, session, images = tmp_path / "model.bhv", ctypes.c_void_p(), random_images(SPEC, 1)
    copy.write_bytes(path.read_bytes())
    assert library.bhvit_open_file(bytes(copy), 1, None, ctypes.byref(session)) == OK
    copy.write_bytes(b"")  # small files are read, so that this changes nothing
    np.testing.assert_array_equal(run(library, session, images), Session(path)(images))
    library.bhvit_close(session)


def test_pixels_that_were_not_normalised(library: ctypes.CDLL, session: ctypes.c_void_p) -> None:
    image, logits = np.full(288, 255, np.float32), np.zeros(4, np.float32)
    assert library.bhvit_run(session, 1, address(image), 288, address(logits), 4) == ARGUMENT
    assert b"far beyond what normalised pixels give" in library.bhvit_error()


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="numbers of x86-64's modes")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00])
def test_the_callers_rounding_changes_no_bit(
    library: ctypes.CDLL, session: ctypes.c_void_p, path: Path, mode: int
) -> None:
    libm, images = ctypes.CDLL(ctypes.util.find_library("m")), random_images(SPEC, 2)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    expected, opened, inputs = Session(path)(images), ctypes.c_void_p(), []
    libm.fesetround(mode)
    try:
        answer = run(library, session, images)
        assert library.bhvit_open_file(bytes(path), 2, None, ctypes.byref(opened)) == OK
        second = run(library, opened, images)
        for current in (mode, 0):
            libm.fesetround(current)
            image = np.empty(288, np.float32)
            size = (pixels.size, 9, 13)
            assert library.bhvit_normalize(session, address(pixels), *size, address(image), image.size) == OK
            assert libm.fegetround() == current
            inputs.append(image.tobytes())
    finally:
        libm.fesetround(0)
    assert answer.tobytes() == second.tobytes() == expected.tobytes()
    assert inputs[0] == inputs[1]
    library.bhvit_close(opened)


def test_labels_of_a_segmentation_are_python_s(library: ctypes.CDLL, session: ctypes.c_void_p, tmp_path: Path) -> None:
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    spec = ModelSpec(name="labels", img_size=(8, 12), patch=4, num_classes=3, task="segment", stages=(stage,))
    bhv_file.write(random_model(spec), tmp_path / "labels.bhv")
    images = random_images(spec, 2)
    opened = ctypes.c_void_p()
    assert library.bhvit_open_file(bytes(tmp_path / "labels.bhv"), 2, None, ctypes.byref(opened)) == OK
    try:
        assert (library.bhvit_task(opened), library.bhvit_task(session)) == (b"segment", b"classify")
        assert library.bhvit_task(None) is None
        labels = np.full((2, 8, 12), 77, np.uint8)
        status = library.bhvit_segment(opened, 2, address(images), images.size, address(labels), labels.size)
        assert status == OK, library.bhvit_error()
        with Session(tmp_path / "labels.bhv") as python:
            np.testing.assert_array_equal(labels, python(images).argmax(axis=1))
            logits = np.empty((2, 3, 8, 12), np.float32)
            status = library.bhvit_run(opened, 2, address(images), images.size, address(logits), logits.size)
            assert status == OK, library.bhvit_error()
            np.testing.assert_array_equal(logits, python(images))
        for given, wanted in (
            ((opened, 2, address(images), images.size, address(labels), 95), b"labels must hold 192 values, not 95"),
            ((opened, 2, address(images), 1, address(labels), 192), b"images must hold"),
            ((opened, 2, address(images), images.size, None, 192), b"labels must not be null"),
            ((None, 2, address(images), images.size, address(labels), 192), b"session must not be null"),
            ((session, 1, address(images), images.size, address(labels), 192), b"the model classifies images"),
        ):
            assert library.bhvit_segment(*given) == ARGUMENT
            assert wanted in library.bhvit_error()
        assert library.bhvit_feature_count(opened) == 0
        assert b"only a model that classifies has features" in library.bhvit_error()
        assert library.bhvit_embed(opened, 2, address(images), images.size, address(labels), 0) == ARGUMENT
        assert b"only a model that classifies has features" in library.bhvit_error()
        images[0, 0, 0, 0] = np.nan
        assert library.bhvit_segment(opened, 2, address(images), images.size, address(labels), labels.size) == ARGUMENT
    finally:
        library.bhvit_close(opened)


def test_features_are_python_s(library: ctypes.CDLL, session: ctypes.c_void_p, path: Path) -> None:
    images = random_images(SPEC, 3)
    with Session(path) as python:
        expected = python.embed(images)
    assert library.bhvit_feature_count(session) == expected.shape[1]
    features = np.empty_like(expected)
    given = (session, 3, address(images), images.size, address(features), features.size)
    assert library.bhvit_embed(*given) == OK, library.bhvit_error()
    np.testing.assert_array_equal(features, expected)
    assert library.bhvit_embed(*given[:5], features.size - 1) == ARGUMENT
    assert b"features must hold" in library.bhvit_error()
    assert library.bhvit_embed(None, *given[1:]) == ARGUMENT
    assert library.bhvit_feature_count(None) == 0
    assert b"session must not be null" in library.bhvit_error()


@pytest.mark.parametrize("size", [(8, 12), (37, 51), (3, 5), (1, 400), (16, 24)])
def test_labels_are_resized_as_in_python(library: ctypes.CDLL, size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (8, 12)).astype(np.uint8)
    resized = np.empty(size, np.uint8)
    given = (address(labels), labels.size, 8, 12, address(resized), resized.size, *size)
    assert library.bhvit_resize_labels(*given) == OK, library.bhvit_error()
    np.testing.assert_array_equal(resized, label_maps.resized(labels, size))
    for changed, said in (
        ({1: 95}, b"labels must hold 96 values, not 95"),
        ({5: 1}, b"resized must hold"),
        ({2: 0}, b"1 to 1048576 pixels an edge"),
        ({7: 1 << 40}, b"1 to 1048576 pixels an edge"),
        ({0: None}, b"labels must not be null"),
        ({4: None}, b"resized must not be null"),
    ):
        wrong = [changed.get(i, value) for i, value in enumerate(given)]
        assert library.bhvit_resize_labels(*wrong) == ARGUMENT
        assert said in library.bhvit_error()
