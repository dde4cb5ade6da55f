"""Session: opening, running, and one clear line for each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import UserList
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import FormatError, Session, UserError
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.runtime import label_maps, reference
from bhvit.spec.model import ModelSpec, StageSpec
from bhvit.system import allowed_cores
from helpers.random_model import random_images, random_model

STAGES = (StageSpec(depth=1, channels=64, hidden=128, mixer="conv"),)
SPEC = ModelSpec(name="plain", img_size=(8, 12), patch=2, num_classes=4, stages=STAGES)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain.bhv"
    bhv_file.write(random_model(SPEC), path)
    return path


@pytest.fixture(scope="module")
def session(path: Path) -> Session:
    return Session(path)


def test_what_a_session_knows(session: Session, path: Path) -> None:
    assert session.spec == SPEC
    assert session.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert session.threads == 1
    assert session.isa in repr(session)
    assert Session(str(path), threads=2, isa="scalar").isa == "scalar"


def test_logits(session: Session) -> None:
    images = random_images(SPEC, 3)
    logits = session(images)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, reference.run(random_model(SPEC), images))
    np.testing.assert_array_equal(session(images[::-1]), logits[::-1])  # not contiguous
    assert session(images[:0]).shape == (0, 4)


def test_classify(session: Session) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert session.preprocess(picture).shape == (1, 3, 8, 12)
    best = session.classify(picture, top=2)
    everything = session.classify(picture, top=99)
    assert best == everything[:2]
    assert len(everything) == 4
    assert sum(p for _, p in everything) == pytest.approx(1)
    assert [p for _, p in everything] == sorted((p for _, p in everything), reverse=True)
    assert best[0][0] == session.class_names[int(session(session.preprocess(picture)).argmax())]
    with pytest.raises(UserError, match="top must be"):
        session.classify(picture, top=0)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        ([[1.0]], "must be a NumPy array, float32 .B, 3, 8, 12., not list"),
        (np.zeros((1, 3, 8, 12)), "not float64"),
        (np.zeros((1, 3, 8, 12), np.uint8), "12 channels cannot become the model's 3"),
        (np.zeros((8, 12, 3), np.uint8), r"images\[None\]"),
        (np.full((1, 3, 8, 12), 255, np.float32), "far beyond normalised pixels .*uint8"),
        (np.full((1, 3, 8, 12), -40, np.float32), "far beyond normalised pixels"),
        (np.zeros((3, 8, 12), np.float32), r"images\[None\]"),
        (np.zeros((1, 3, 12, 8), np.float32), r"not of shape \(1, 3, 12, 8\)"),
        (np.zeros((1, 1, 8, 12), np.float32), r"not of shape \(1, 1, 8, 12\)"),
        (np.zeros((1, 8, 12, 3), np.float32), "not of shape"),
        (np.zeros((), np.float32), "not of shape"),
        (np.full((1, 3, 8, 12), np.nan, np.float32), "NaN"),
        (np.full((1, 3, 8, 12), np.inf, np.float32), "infinity"),
    ],
)
def test_wrong_images(session: Session, images: object, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        session(images)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [-1, 257, 1.0, True, "2"])
def test_wrong_threads(path: Path, threads: object) -> None:
    with pytest.raises(UserError, match="threads must be a whole number from 1 to 256"):
        Session(path, threads=threads)  # type: ignore[arg-type]


def test_wrong_isa(path: Path) -> None:
    with pytest.raises(UserError, match=r"'altivec' is not one that this machine can run: auto, .*scalar"):
        Session(path, isa="altivec")
    with pytest.raises(UserError, match="isa must be auto"):
        Session(path, isa=None)  # type: ignore[arg-type]


def test_files_that_cannot_be_opened(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.bhv: No such file"):
        Session(tmp_path / "absent.bhv")
    with pytest.raises(UserError, match="cannot read"):
        Session(tmp_path)
    with pytest.raises(UserError, match=r"cannot read cifar11: .*; bundled models: cifar10"):
        Session("cifar11")
    with pytest.raises(UserError, match="a path, the bytes of a file or the name of a bundled one, not None"):
        Session(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="or the name of a bundled one, not ''"):
        Session("")
    damaged = tmp_path / "damaged.bhv"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"damaged.bhv: ") as caught:
        Session(damaged)
    assert "\n" not in str(caught.value)
    damaged.write_bytes(b"")
    with pytest.raises(FormatError, match=r"not a .bhv file"):
        Session(damaged)


def test_pictures_are_preprocessed(session: Session) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (67, 20, 30, 3), np.uint8)
    expected = np.concatenate([session(session.preprocess(picture)) for picture in pictures])
    np.testing.assert_array_equal(session(pictures), expected)
    np.testing.assert_array_equal(session(pictures[..., ::-1], bgr=True), expected)
    assert session(pictures[:0]).shape == (0, 4)
    assert session.classify(pictures[0][..., ::-1], bgr=True) == session.classify(pictures[0])
    transparent = np.concatenate([pictures[0], np.full((20, 30, 1), 9, np.uint8)], axis=2)
    np.testing.assert_array_equal(
        session.preprocess(transparent[..., [2, 1, 0, 3]], bgr=True), session.preprocess(transparent)
    )
    for wrong in (pictures[0, ..., 0], Image.fromarray(pictures[0]), "cat.jpg"):
        with pytest.raises(UserError, match="bgr is for arrays"):
            session.preprocess(wrong, bgr=True)
    with pytest.raises(UserError, match="bgr is for uint8 images"):
        session(random_images(SPEC, 1), bgr=True)


def test_bytes_and_lists(session: Session, path: Path, tmp_path: Path) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8) for seed in range(3)]
    files: list[Any] = []
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        files.append(tmp_path / f"{index}.png")
    expected = [session.classify(picture) for picture in pictures]
    data = files[0].read_bytes()
    held: Any
    for held in (data, bytearray(data), memoryview(data)):
        assert session.classify(held) == expected[0]
    assert session.classify(files) == session.classify(tuple(map(str, files))) == expected
    assert session.classify(UserList(files)) == expected
    assert session.classify([]) == []
    model = path.read_bytes()
    for held in (model, bytearray(model), memoryview(model)):
        assert Session(held).classify(pictures[0]) == expected[0]


def test_messages_stay_short(session: Session, path: Path, tmp_path: Path) -> None:
    for wrong in (None, 7, {"a": "b" * 10**6}, object()):
        with pytest.raises(UserError, match="an image is a path, the bytes of an image file") as caught:
            session.preprocess(wrong)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 500
    with pytest.raises(UserError) as caught:
        session.classify(b"\xff" * 10**6)
    assert len(str(caught.value)) < 500
    for model in ("x" * 10**6, b"\0" * 10**6, ["x" * 10**6], tmp_path / ("y" * 3000)):
        with pytest.raises(UserError) as caught:
            Session(model)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 700
    with pytest.raises(UserError) as caught:
        Session(path, threads="x" * 10**6)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 700


def test_threads_of_the_machine(path: Path) -> None:
    for threads in (0, "auto"):
        assert Session(path, threads=threads).threads == allowed_cores()
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert Session(path, threads="auto").threads == 1
        finally:
            os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("options", [{"max_memory": 0}, {"max_memory": 1.5}, {"max_memory": True}, {"map": 1}])
def test_wrong_options(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"max_memory must be a positive number of bytes|map must be True"):
        Session(path, **options)


def test_reading_and_mapping(path: Path, tmp_path: Path) -> None:
    images, copy = random_images(SPEC, 1), tmp_path / "copy.bhv"
    copy.write_bytes(path.read_bytes())
    read, mapped = Session(copy), Session(copy, map=True)
    assert (read.mapped, mapped.mapped, Session(copy, map=False).mapped) == (False, True, False)
    expected = mapped(images)
    copy.write_bytes(b"")  # in place: fatal for a mapped file, of no matter for one that was read
    np.testing.assert_array_equal(read(images), expected)


def test_a_long_thin_picture_is_refused_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    spec = ModelSpec(name="labels", img_size=(8, 12), patch=4, num_classes=3, task="segment", stages=(stage,))
    session = Session(bhv_file.to_bytes(random_model(spec)))
    monkeypatch.setattr(label_maps, "MAX_WINDOW_FLOATS", 3 * 8 * 96)
    assert session.segment(np.zeros((1, 12, 3), np.uint8), windows=True).shape == (1, 12)
    monkeypatch.setattr(Preprocess, "resized", None)
    with pytest.raises(UserError, match="a picture of 104x8 pixels and 3 classes is too large for windows"):
        session.segment(np.zeros((1, 13, 3), np.uint8), windows=True)


def test_closing(path: Path) -> None:
    with Session(path, threads=2) as session:
        session(random_images(SPEC, 1))
    with pytest.raises(UserError, match="closed"):
        session(random_images(SPEC, 1))
    assert "closed" in repr(session)
    assert session.class_names


def test_a_session_needs_no_torch(path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bhvit, numpy\n"
        f"print(bhvit.Session({str(path)!r})(numpy.zeros((1, 3, 8, 12), numpy.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 4)", done.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_no_answer(session: Session, value: float) -> None:
    logits = np.zeros((1, len(session.class_names)), np.float32)
    logits[0, 1] = value
    for ask in (session.likeliest, session.probabilities):
        with pytest.raises(UserError, match="NaN or infinity"):
            ask(logits)


def test_a_home_that_may_not_be_looked_into_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = Path.is_file

    def refuse(self: Path) -> bool:
        if self.is_relative_to(tmp_path / "private"):
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setenv("BHVIT_MODELS", str(tmp_path / "private"))
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(UserError, match=r"cannot read absent: .*; bundled models: cifar10"):
        Session("absent")
