"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """Training was asked to end by a signal, whose number is `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruptible:
    """Defer the first Ctrl-C, SIGTERM or SIGHUP until `check` raises `Interrupted`.

    Raised at once, as Python does, it can land in a finaliser or a callback of a library, where it is printed and
    lost, and training goes on. A second signal is raised at once. A signal that the process was started
    to ignore, as `nohup` and shells do, stays ignored. Outside the main thread, where signals cannot be handled, this
    does nothing.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruptible:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked is not None

    def check(self, *_: object) -> None:
        """Raises Interrupted if a signal has come."""
        if self._asked is not None:
            raise Interrupted(self._asked)

    def end(self) -> None:
        """Raises Interrupted for the signal that came to this process or another."""
        raise Interrupted(self._asked or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._asked = number
