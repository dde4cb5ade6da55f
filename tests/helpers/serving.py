"""`bhvit serve` in a process of its own, as users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Server:
    """A running server: its address, what it logged, and its exit status after `stop`."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "bhvit", "serve", *map(str, words), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = self.wait_for("listening")["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self.log.append({"event": "closed"})
            self._changed.notify_all()

    def wait_for(self, event: str, count: int = 1, **fields: object) -> dict[str, Any]:
        """The `count`-th event of this name with these fields, when it comes."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.log if e["event"] == event and fields.items() <= e.items()]

        with self._changed:
            assert self._changed.wait_for(
                lambda: len(found()) >= count or (self.log and self.log[-1]["event"] == "closed"), 30
            ), self.log
            assert len(found()) >= count, self.log
            return found()[count - 1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        self._reader.join(10)
        return status


@contextmanager
def running(*words: object) -> Iterator[Server]:
    """A server that is stopped at the end, and must then have ended with status 0."""
    server = Server(*words)
    try:
        yield server
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        if server.process.stderr is not None:
            server._reader.join(10)
            server.process.stderr.close()
