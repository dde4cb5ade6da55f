"""Clients that send slowly, or do not take their answer, do not hold the server."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from typing import Any

import pytest
import uvicorn

from bhvit.serve.server import _protocol
from helpers.serving import running


def trickle(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


def test_slow_requests_end_in_time() -> None:
    with running("cifar10", "--timeout", 1) as server:
        head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        for sent, answered in ((b"", b""), (b"POST /classify HTTP/1.1\r\nHost", b""), (head + b"x", b"408")):
            with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
                connection.sendall(sent)
                begin = time.monotonic()
                assert answered in connection.makefile("rb").read()[:20]  # to its end: it is closed
                assert time.monotonic() - begin < 5
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:  # a byte now and then
            begin = time.monotonic()
            with pytest.raises(OSError):  # noqa: PT011 (reset, or a broken pipe)
                trickle(connection, head[:40])
            assert 1 < time.monotonic() - begin < 5


def test_an_answer_that_is_not_taken_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    async def ask() -> None:
        config = uvicorn.Config(app, http=_protocol(0.2), lifespan="off", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        protocol = functools.partial(_protocol(0.2), config, server.server_state, {})
        listening = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname(), limit=1 << 16)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(50_000_000)
        writer.close()
        listening.close()

    asyncio.run(asyncio.wait_for(ask(), 10))
