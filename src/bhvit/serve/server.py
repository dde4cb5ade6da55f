"""Running a server: its socket, signals, and the watch over its models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UserError
from .app import Service
from .limits import Limits
from .log import Handler, Log
from .models import Models, SessionOptions


def serve(
    sources: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    options: SessionOptions | None = None,
    limits: Limits | None = None,
    drain: float = 20.0,
    look_every: float = 1.0,
    web: Path | None = None,
) -> None:
    """Serve models until SIGTERM or SIGINT; then finish what runs, for `drain` seconds at most.

    Raises UserError for a model that cannot be opened and an address that cannot be used.
    """
    log = Log()
    if web is not None and not (web / "index.html").is_file():
        raise UserError(f"{web} is no built page: it has no index.html")
    models = Models(sources, workers, options or SessionOptions(), log)
    service = Service(models, limits or Limits(), workers, log, web)
    listening = _listen(host, port)
    for name in ("uvicorn", "asyncio", "python_multipart"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Handler(log)], False
    config = uvicorn.Config(
        service.app(),
        http=_protocol(service.limits.seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(max(5, service.limits.seconds)),
        timeout_graceful_shutdown=max(1, round(drain)),
        limit_concurrency=2 * service.limits.connections,
    )
    stop = threading.Event()
    watch = threading.Thread(target=_watch, args=(models, look_every, stop, log), name="bhvit-watch", daemon=True)
    watch.start()
    address = listening.getsockname()
    log("listening", host=address[0], port=address[1], workers=workers, models=sorted(models.all))
    try:
        _Server(config, service).run(sockets=[listening])
    finally:
        stop.set()
        service.pool.close()
        listening.close()
    log("stopped")


class _Server(uvicorn.Server):
    """uvicorn's server, which ends with status 0 after a signal."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self._service.draining = True
        self._service.log("stopping", signal=signal.Signals(number).name, jobs=self._service.pool.jobs)
        self.handle_exit(number, frame)


def _protocol(seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 that closes a connection whose request does not begin, or whose headers do not end, in time.

    Bytes that trickle in do not extend the time, nor do those of a body whose request has been refused. A client that
    does not take its answer in time loses it, and the server the memory that held it.
    """

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _untaken: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            self._taken()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._untaken = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._taken()
            super().resume_writing()

        def _taken(self) -> None:
            if self._untaken is not None:
                self._untaken.cancel()
                self._untaken = None

        def _watch(self) -> None:
            """Start the deadline, unless it has begun or a request is being answered."""
            if self._runs():
                self._forget()
            elif self._deadline is None and not self.transport.is_closing():
                self._deadline = self.loop.call_later(seconds, self._close_if_idle)

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _runs(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _close_if_idle(self) -> None:
            if not self._runs() and not self.transport.is_closing():
                self.transport.close()

    return Protocol


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen on {host}: {getattr(error, 'strerror', None) or error}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listening


def _watch(models: Models, seconds: float, stop: threading.Event, log: Log) -> None:
    while not stop.wait(seconds):
        try:
            models.refresh()
        except Exception as error:  # such as no memory for a new model: those that are there go on
            log("models not looked for", level="error", reason=f"{type(error).__name__}: {error}")
