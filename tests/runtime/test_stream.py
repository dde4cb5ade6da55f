"""`Session.stream`: answers of any source, in order, whatever the number of workers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session, UserError
from bhvit.data.inputs import Failed, Picture
from bhvit.runtime.pipeline import run_all
from helpers.images import class_folders
from helpers.videos import serving, video


@pytest.fixture(scope="module")
def session() -> Session:
    return Session("cifar10")


@pytest.mark.parametrize("workers", [1, 3, "auto"])
def test_answers_are_those_of_classify(session: Session, tmp_path: Path, workers) -> None:
    root = class_folders(tmp_path, count=6)
    bad = root / "cat" / "002.png"
    bad.write_bytes(bad.read_bytes()[:40])
    found = list(session.stream(root, top=3, workers=workers))
    assert [streamed.name for streamed in found] == sorted(str(path) for path in root.rglob("*.png"))
    for streamed in found:
        if streamed.name == str(bad):
            assert streamed.classes is None
            assert str(bad) in str(streamed.error)
        else:
            assert streamed.error is None
            assert streamed.classes == session.classify(streamed.name, top=3)


def test_frames_have_their_times(session: Session, tmp_path: Path) -> None:
    found = list(session.stream(video(tmp_path / "a.mp4"), every=4))
    assert [streamed.seconds for streamed in found] == pytest.approx([0, 0.4, 0.8])
    assert [streamed.classes for streamed in found] == [session.classify(s.picture.image()) for s in found]


def test_a_live_source_ends_with_the_loop(session: Session) -> None:
    with serving() as at:
        for number, streamed in enumerate(session.stream(f"{at}/stream?100000")):
            assert streamed.classes is not None
            if number == 5:
                break


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "many", 1000])
def test_impossible_workers_are_refused(session: Session, bad) -> None:
    with pytest.raises(UserError, match="workers must be a whole number from 1 to 256, or 'auto'"):
        session.stream("x.png", workers=bad)


def test_refused_before_the_first_answer(session: Session) -> None:
    with pytest.raises(UserError, match="there is no image"):
        session.stream("absent.png")
    with pytest.raises(UserError, match="top must be"):
        session.stream("absent.png", top=0)


@pytest.mark.parametrize("opened", ["path", "bytes", "mapped"])
def test_copies_compute_the_same_side_by_side(opened: str, tmp_path: Path) -> None:
    from bhvit import bundled

    path = tmp_path / "model.bhv"
    path.write_bytes(bundled.find("cifar10", ".bhv").read_bytes())
    first = Session(path.read_bytes() if opened == "bytes" else path, map=True if opened == "mapped" else None)
    another = first.copy()
    if opened != "mapped":
        path.write_bytes(b"something else")  # the model is the same, whatever its file has become
    third = another.copy()
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    expected = first(images)
    del first
    answers: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda s=s: answers.append(s(images))) for s in (another, third)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
    assert (another.spec, another.threads, another.isa) == (third.spec, third.threads, third.isa)


def test_a_closed_session_is_not_copied() -> None:
    session = Session("cifar10")
    session.close()
    with pytest.raises(UserError, match="the session is closed"):
        session.copy()


class _Numbered(Picture):
    def image(self, needed: Any = None) -> Any:
        raise AssertionError("not decoded here")


def test_pictures_are_not_taken_far_ahead() -> None:
    taken: list[int] = []
    all_taken = threading.Event()

    def pictures():
        for number in range(100):
            taken.append(number)
            yield _Numbered(str(number))
        all_taken.set()

    outcomes = run_all(pictures(), [0, 1], lambda worker, picture: int(picture.name), ahead=2)
    assert next(outcomes).answer == 0
    assert not all_taken.wait(0.3)
    assert len(taken) <= 7  # four under way, one at the door, one taken, one decoded
    assert [outcome.answer for outcome in outcomes] == list(range(1, 100))


def test_an_answer_does_not_wait_for_the_next_picture() -> None:
    more = threading.Event()

    def pictures():
        yield _Numbered("0")
        assert more.wait(10)
        yield _Numbered("1")

    outcomes = run_all(pictures(), [0], lambda worker, picture: picture.name)
    assert next(outcomes).answer == "0"
    more.set()
    assert next(outcomes).answer == "1"


def test_a_worker_runs_one_picture_at_a_time() -> None:
    busy: set[int] = set()
    all_busy = threading.Barrier(3)  # broken, and with it the run, where three do not work at once

    def work(worker: int, picture: Picture) -> int:
        assert worker not in busy
        busy.add(worker)
        all_busy.wait(30)
        busy.remove(worker)
        return worker

    found = list(run_all((_Numbered(str(n)) for n in range(60)), [0, 1, 2], work))
    assert [outcome.error for outcome in found] == [None] * 60
    assert {outcome.answer for outcome in found} == {0, 1, 2}


def test_errors_of_one_picture_and_of_the_whole() -> None:
    def work(worker: int, picture: Picture) -> str:
        if picture.name == "b":
            picture.image()
        return picture.name

    found = list(run_all([_Numbered("a"), Failed("b", "damaged"), _Numbered("c")], [0, 1], work))
    assert [outcome.answer for outcome in found] == ["a", None, "c"]
    assert str(found[1].error) == "b: damaged"

    def broken():
        yield _Numbered("a")
        raise UserError("the source broke")

    outcomes = run_all(broken(), [0], work)
    assert next(outcomes).answer == "a"
    with pytest.raises(UserError, match="the source broke"):
        next(outcomes)

    def crash(worker: int, picture: Picture) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_all([_Numbered("a")], [0], crash))
