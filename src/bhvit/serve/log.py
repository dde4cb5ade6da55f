"""Structured logs: a JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import TextIO


class Log:
    """Writes events. Callable (event, level, **fields), from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: str, level: str = "info", **fields: object) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(1000 * (now % 1)):03}Z"
        line = json.dumps({"time": stamp, "level": level, "event": event, **fields}, default=str)
        with self._lock:
            print(line, file=self._stream or sys.stderr, flush=True)


class Handler(logging.Handler):
    """Passes the records of other packages' loggers on to a `Log`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        self._log(record.getMessage(), level=record.levelname.lower(), **fields)
