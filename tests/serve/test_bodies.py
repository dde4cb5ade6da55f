"""Bodies and headers that no client sends: each is answered with a line, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from bhvit import Session
from helpers.serving import Server

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
from bhvit.serve.body import Bodies  # noqa: E402
from bhvit.serve.limits import Limits, RequestError  # noqa: E402

INPUT = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32"}


def test_numbers_after_a_header_of_any_length(server: Server, session: Session) -> None:
    images = np.linspace(-1, 1, 3072, dtype=np.float32).reshape(1, 3, 32, 32)
    described = {**INPUT, "parameters": {"binary_data_size": images.nbytes}}
    for spaces in range(4):  # so that the numbers begin at no multiple of four bytes
        head = json.dumps({"inputs": [described]}).encode() + b" " * spaces
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = httpx.post(f"{server.url}/v2/models/cifar10/infer", content=head + images.tobytes(), headers=headers)
        assert answer.json()["outputs"][0]["data"] == session(images).ravel().tolist()


def raw_answer(server: Server, headers: str, body: bytes) -> bytes:
    """The first line that the server answers to a request written by hand."""
    begin = "POST /v2/models/cifar10/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sent:
        sent.sendall(f"{begin}{headers}\r\n\r\n".encode() + body)
        return sent.makefile("rb").readline()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: -1", b""),
        ("Content-Length: " + "9" * 5000, b""),
        ("Content-Length: +2", b"{}"),
        ("Content-Length: 2\r\nContent-Length: 3", b"{}"),
        ("Transfer-Encoding: chunked", b"-1\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"f" * 30 + b"\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip, chunked", b"2\r\n{}\r\n0\r\n\r\n"),
    ],
)
def test_lengths_that_are_none(server: Server, headers: str, body: bytes) -> None:
    assert raw_answer(server, headers, body).startswith(b"HTTP/1.1 400 ")


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nabc\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("", FORM, "cannot be read"),
        ("; boundary=", FORM, "cannot be read"),
        ("; boundary=y", FORM, "cannot be read"),
        ("; boundary=x; charset=hex", FORM, "is not an image"),
        ("; boundary=x; charset=undefined", FORM, "cannot be read"),
        ("; boundary=x", FORM[:40], "has no file"),
        ("; boundary=x", FORM.replace(b'name="file"', b""), "cannot be read"),
        ("; boundary=x", FORM.replace(b"file", b"\xff\xfe"), "has no file"),
        ("; boundary=x", FORM.replace(b"Content", b"\x01"), "cannot be read"),
        ("; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\nabc\r\n--x--\r\n", "cannot be read"),
        ("; boundary=x", FORM.replace(b"--x--\r\n", b"") * 20 + FORM, "Too many files"),
        ("; boundary=x", FORM + b"more" * 1000, "is not an image"),
    ],
)
def test_forms_that_are_none(server: Server, kind: str, body: bytes, said: str) -> None:
    headers = {"Content-Type": f"multipart/form-data{kind}"}
    answer = httpx.post(f"{server.url}/classify", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


class Compressed:
    """A request whose body unpacks to a thousand times its size."""

    headers: ClassVar = {"content-encoding": "gzip"}

    async def stream(self) -> AsyncIterator[bytes]:
        yield gzip.compress(bytes(1 << 20))


def test_what_bodies_unpack_to_counts() -> None:
    """Small bodies that unpack to large ones must not fill the memory together."""
    limits, request = Limits(body=1 << 20, bodies=3 << 20), cast("Any", Compressed())
    bodies = Bodies(limits)

    async def hold(count: int) -> None:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(count):
                assert len(await held.enter_async_context(bodies.reading(request, 5))) == limits.body

    asyncio.run(hold(3))
    with pytest.raises(RequestError, match="too many large requests"):
        asyncio.run(hold(4))
    asyncio.run(hold(3))  # nothing is held any more


def test_the_server_has_made_no_mistake(server: Server) -> None:
    assert [event for event in server.log if event["level"] == "error"] == []
    assert {event.get("logger") for event in server.log} <= {None, "uvicorn.error", "python_multipart.multipart"}
