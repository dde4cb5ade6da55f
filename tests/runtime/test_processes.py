"""Sessions in processes that fork, end, are interrupted, or hand a session to others."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session, UserError
from bhvit.format import file as bhv_file
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_images, random_model

STAGES = (
    StageSpec(depth=2, channels=64, hidden=128, mixer="conv"),
    StageSpec(depth=2, channels=64, hidden=64, mixer="attention", heads=2, window=(4, 4)),
)
SPEC = ModelSpec(name="plain", img_size=(64, 64), patch=2, num_classes=4, stages=STAGES)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain.bhv"
    bhv_file.write(random_model(SPEC), path)
    return path


@contextmanager
def running(session: Session) -> Iterator[None]:
    """A thread that runs the session all the time."""
    images, started, stop = random_images(SPEC, 64), threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            session(images)
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def in_child(path: Path, session: Session) -> int:
    """The status of a forked child: 0 if its own session and the inherited one answer, 3 if the latter is refused."""
    images = random_images(SPEC, 2)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.alarm(20)  # a child that hangs ends by this signal
        with Session(path, threads=2) as own:
            expected = own(images).tobytes()
        status = 0 if session(images).tobytes() == expected else 1
    except UserError as error:
        status = 3 if "running in another thread when the process forked" in str(error) else 2
    finally:
        session.close()
        os._exit(status)


@needs_fork
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_child_uses_an_idle_session(path: Path, threads: int) -> None:
    session = Session(path, threads=threads)
    for _ in range(3):
        assert in_child(path, session) == 0
        session(random_images(SPEC, 1))


@needs_fork
@pytest.mark.parametrize("threads", [1, 3])
def test_a_child_of_a_running_session_is_told(path: Path, threads: int) -> None:
    session = Session(path, threads=threads)
    with running(session):
        found = {in_child(path, session) for _ in range(12)}
    assert found <= {0, 3}  # 0: forked between two runs
    assert 3 in found


@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_ends_while_threads_run(path: Path, threads: int) -> None:
    code = (
        "import sys, threading, numpy, bhvit\n"
        f"session = bhvit.Session({str(path)!r}, threads={threads})\n"
        "images = numpy.zeros((8, 3, 64, 64), numpy.float32)\n"
        "started = threading.Semaphore(0)\n"
        "def work():\n"
        "    while True:\n"
        "        session(images)\n"
        "        started.release()\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "    started.acquire()\n"
        "sys.exit(7)\n"
    )
    for _ in range(6):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (7, "")


def test_ctrl_c_ends_a_long_batch(path: Path) -> None:
    code = (
        "import numpy, bhvit\n"
        f"session = bhvit.Session({str(path)!r}, isa='scalar')\n"
        "images = numpy.zeros((20000, 3, 64, 64), numpy.float32)\n"
        "session(images[:1])\n"
        "checked = session._checked\n"
        "def last(images):\n"  # what Python does before native code has the batch
        "    found = checked(images)\n"
        "    print('running', flush=True)\n"
        "    return found\n"
        "session._checked = last\n"
        "try:\n"
        "    session(images)\n"
        "except KeyboardInterrupt:\n"
        "    session._checked = checked\n"
        "    session(images[:1])\n"  # it is this thread's turn again
        "    print('interrupted')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        begin = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "interrupted\n"
        assert time.perf_counter() - begin < 5  # the whole batch takes many times that
        assert process.wait() == 0


def test_closing_while_another_thread_runs(path: Path) -> None:
    session, images, failures = Session(path, threads=2), random_images(SPEC, 3), list[str]()
    started = threading.Semaphore(0)
    expected = session(images).tobytes()

    def work() -> None:
        try:
            while True:
                if session(images).tobytes() != expected:
                    failures.append("other logits")
                started.release()
        except UserError as error:
            if "closed" not in str(error):
                failures.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert started.acquire(timeout=60)
    session.close()
    for thread in threads:
        thread.join()
    assert failures == []


def test_sessions_pickle(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(SPEC, 2)
    monkeypatch.chdir(path.parent)
    by_path = Session(path.name, threads=2, isa="scalar", max_memory=1 << 28)
    by_bytes = Session(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for session in (by_path, by_bytes, Session("cifar10")):
        again = pickle.loads(pickle.dumps(session))
        assert (again.threads, again.isa, again.spec) == (session.threads, session.isa, session.spec)
    assert pickle.loads(pickle.dumps(by_path))(images).tobytes() == by_bytes(images).tobytes()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pictures: list[Any] = [np.full((64, 64, 3), shade, np.uint8) for shade in (0, 100)]
        assert pool.map(by_path.classify, pictures) == by_path.classify(pictures)
    by_path.close()
    with pytest.raises(UserError, match="closed session"):
        pickle.dumps(by_path)
