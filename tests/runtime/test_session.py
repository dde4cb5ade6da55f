"""Session: opening, running, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bhvit import FormatError, Session, UserError
from bhvit.format import file as bhv_file
from bhvit.runtime import reference
from bhvit.spec.model import ModelSpec, StageSpec
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
        (np.zeros((1, 3, 8, 12), np.uint8), "not uint8"),
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


@pytest.mark.parametrize("threads", [0, -1, 257, 1.0, True, "2"])
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
    with pytest.raises(UserError, match="a path or the name of a bundled one, not None"):
        Session(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a path or the name of a bundled one, not ''"):
        Session("")
    damaged = tmp_path / "damaged.bhv"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"damaged.bhv: ") as caught:
        Session(damaged)
    assert "\n" not in str(caught.value)
    damaged.write_bytes(b"")
    with pytest.raises(FormatError, match=r"not a .bhv file"):
        Session(damaged)


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
