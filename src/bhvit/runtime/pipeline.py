"""Run pictures through a model in several threads, with answers in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ..data.inputs import Picture
from ..errors import UserError

Worker = TypeVar("Worker")
Answer = TypeVar("Answer")
AHEAD = 2
"""Pictures for each worker that are under way or answered before the first of them has been taken."""


class Outcome(NamedTuple):  # not generic: Python 3.10 cannot make it
    """The result for a picture: an answer, or an error where it cannot be read."""

    picture: Picture
    answer: Any
    error: UserError | None


def run_all(
    pictures: Iterable[Picture],
    workers: Sequence[Worker],
    work: Callable[[Worker, Picture], Answer],
    *,
    ahead: int = AHEAD,
) -> Iterator[Outcome]:
    """Run `work(worker, picture)` on each picture with a free worker; yield the outcomes in order.

    Each worker runs in one thread at a time, so that decoding, resizing and running of different pictures overlap:
    Pillow, FFmpeg and the engine release Python's lock. A picture for which `work` raises UserError has that as its
    outcome; other exceptions end the run. At most `ahead` pictures for each worker are held.
    """
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def outcome(picture: Picture) -> Outcome:
        worker = free.get()
        try:
            return Outcome(picture, work(worker, picture), None)
        except UserError as error:
            return Outcome(picture, None, with_name(error, picture.name))
        finally:
            free.put(worker)

    pool = ThreadPoolExecutor(len(workers), thread_name_prefix="bhvit")
    under_way: queue.Queue[Future[Outcome] | BaseException | None] = queue.Queue(ahead * len(workers))
    stop = threading.Event()

    def put(item: Future[Outcome] | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                under_way.put(item, timeout=0.1)
                return

    def feed() -> None:
        try:
            for picture in pictures:
                if stop.is_set():
                    return
                put(pool.submit(outcome, picture))
            put(None)
        except BaseException as error:  # the source ends in an error: raised where outcomes are taken
            put(error)

    # A thread of its own: an answer does not wait for the next picture, which may be long in coming.
    threading.Thread(target=feed, name="bhvit-source", daemon=True).start()
    try:
        while (item := under_way.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def with_name(error: UserError, name: str) -> UserError:
    """Return the error with the name of its picture, unless it says it already."""
    return error if UserError(name).args[0] in str(error) else UserError(f"{name}: {error}")
