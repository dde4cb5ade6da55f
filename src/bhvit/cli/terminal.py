"""Output that the terminal can show, and SIGTERM as an exception."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from ..errors import printable

_PROGRESS = re.compile("(\r|\x1b\\[[AK]|\n|\t)")
"""What progress bars send: back to the start of the line, one line up, erase the line."""
_PLAIN = re.compile("(\n|\t)")


class _Escaping:
    """A text stream that escapes control characters, except those of `allowed`."""

    def __init__(self, stream: TextIO, allowed: re.Pattern[str]) -> None:
        self._stream = stream
        self._allowed = allowed

    def write(self, text: str) -> int:
        parts = self._allowed.split(text)  # every second part is one that is allowed
        self._stream.write("".join(part if index % 2 else printable(part) for index, part in enumerate(parts)))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Escape control characters on standard output and error, and what their encoding lacks.

    Class names and file names come from others: an escape sequence in them must not reach the terminal.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        # A stream that was closed before Python started is None.
        streams = [
            stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")) if stream is None else stream
            for stream in before
        ]
        sys.stdout = _Escaping(_replacing(streams[0]), _PLAIN)
        sys.stderr = _Escaping(_replacing(streams[1]), _PROGRESS)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _replacing(stream: TextIO) -> TextIO:
    """The stream, set to write escapes for what its encoding lacks."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # replaced by another object, or closed
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
    return stream


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""

    number = signal.SIGTERM


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, so that partial files are removed on the way out.

    A handler that is there already stays, and so does an inherited "ignore". A forked child ends as usual.
    """
    number = getattr(signal, "SIGTERM", None)
    main = threading.current_thread() is threading.main_thread()
    if number is None or not main or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise Terminated("SIGTERM")

    signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
