"""Work of requests in threads, one for each worker, behind a bounded queue."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .limits import RequestError, busy

Result = TypeVar("Result")


class Pool:
    """`workers` threads, and at most `queue` jobs that wait for one."""

    def __init__(self, workers: int, queue: int) -> None:
        self._workers, self._most = workers, workers + queue
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="bhvit-serve")
        self._lock = threading.Lock()
        self._jobs = 0
        self._seconds = 0.05  # of a job, averaged over the last ones

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
        future = self._threads.submit(self._timed, work)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except asyncio.TimeoutError:
            raise RequestError(504, f"no answer within {seconds:g} seconds") from None

    def _timed(self, work: Callable[[], Result]) -> Result:
        begin = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds += 0.1 * (time.perf_counter() - begin - self._seconds)

    def _done(self, _: Future[Result]) -> None:
        with self._lock:
            self._jobs -= 1

    def close(self) -> None:
        """Let what runs end; what waits never begins."""
        self._threads.shutdown(wait=False, cancel_futures=True)
