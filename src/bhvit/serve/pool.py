"""Work of requests in threads, one for each worker, behind a bounded queue."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .limits import RequestError, busy

Result = TypeVar("Result")


class Pool:
    """`workers` threads, and at most `queue` jobs that wait for one.

    They are daemons: unlike those of a ThreadPoolExecutor, they do not keep a process whose time to end has come.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self._workers, self._most = workers, workers + queue
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._jobs = 0
        self._seconds = 0.05  # of a job, averaged over the last ones
        for number in range(workers):
            threading.Thread(target=self._work, name=f"bhvit-serve-{number}", daemon=True).start()

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self._jobs

    async def run(self, work: Callable[[], Result], seconds: float) -> Result:
        """Return `work()`, computed in a thread of the pool.

        Raises RequestError: 503 if too many jobs wait already, 504 if it takes longer than `seconds`. A job that has
        not begun by then never begins.
        """
        with self._lock:
            if self._jobs >= self._most:
                raise busy("too many requests: try again later", self._jobs * self._seconds / self._workers)
            self._jobs += 1
        future: Future[Result] = Future()
        future.add_done_callback(self._done)
        self._waiting.put((future, work))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except asyncio.TimeoutError:
            raise RequestError(504, f"no answer within {seconds:g} seconds") from None

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            begin = time.perf_counter()
            try:
                future.set_result(work())
            except BaseException as error:  # for who asked
                future.set_exception(error)
            del job, future, work  # the next one may be long in coming
            self._seconds += 0.1 * (time.perf_counter() - begin - self._seconds)

    def _done(self, _: Future[Result]) -> None:
        with self._lock:
            self._jobs -= 1

    def close(self) -> None:
        """Let what runs end; what waits never begins."""
        with suppress(Empty):
            while (job := self._waiting.get_nowait()) is not None:
                job[0].cancel()
        for _ in range(self._workers):
            self._waiting.put(None)
