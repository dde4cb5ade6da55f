"""Several processes on this machine that train one model, for `bhvit train --processes`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ..system import allowed_cores

SECONDS_TO_END = 20.0
"""How long processes may take to end once one of them failed."""
_POLL = 0.05
_FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def is_child() -> bool:
    """Whether this process is one of several already, started by `launch` or by torchrun."""
    return all(name in os.environ for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"))


def launch(count: int, words: Sequence[str], command: Sequence[str] = (sys.executable, "-m", "bhvit")) -> int:
    """Run `command` in `count` processes that find each other; return the first failure's status.

    `words` are its arguments. The processes get the environment that torchrun gives, and signals to this process. When
    one fails, the others are ended. Cores are shared equally unless OMP_NUM_THREADS is set.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": str(max(1, allowed_cores() // count)),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        _send(children, number)

    before: dict[int, Any] = {}
    for number in _FORWARDED:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, forward)
    try:
        for rank in range(count):
            ranked = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of their own: the terminal's Ctrl-C reaches them once, through this process.
            children.append(subprocess.Popen([*command, *words], env=ranked, start_new_session=True))
        return _wait(children)
    finally:
        for child in children:
            child.kill()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def report_failure(line: str) -> None:
    """Tell torchrun, if it started this process, why it failed.

    Its summary of failures then quotes `line`.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and is_child():
        said = {"message": {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with suppress(OSError):
            Path(file).write_text(json.dumps(said), encoding="utf-8")


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended or one has failed, and end the others.

    Returns the status of the one that failed, or 0.
    """
    while True:
        ended = [child.poll() for child in children]
        failed = [status for status in ended if status]
        if failed or None not in ended:
            break
        time.sleep(_POLL)
    if not failed:
        return 0
    # After a signal that was passed on, all of them save or have saved; of a crash the others know nothing.
    if _signal_of(failed[0]) not in _FORWARDED:
        _send(children, signal.SIGTERM)
    end = time.monotonic() + SECONDS_TO_END
    while any(child.poll() is None for child in children) and time.monotonic() < end:
        time.sleep(_POLL)
    return failed[0] if failed[0] > 0 else 128 - failed[0]


def _signal_of(status: int) -> int:
    """Return the signal that ended a process with this status; 0 for none."""
    return -status if status < 0 else max(0, status - 128)


def _send(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)
