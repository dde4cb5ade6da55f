"""Bodies of requests: read within limits, in memory only."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .limits import Limits, RequestError, busy


class Bodies:
    """Reads bodies, and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def reading(self, request: Request, seconds: float) -> AsyncIterator[bytes]:
        """The body of a request, decompressed; its bytes count until the end of the context.

        Raises RequestError: 413 for a body that is too large, 408 for one that does not come in time, 503 if all bodies
        are too large together, 400 for one that is cut short, 415 for an unknown compression.
        """
        limits = self._limits
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and (len(declared) > 20 or int(declared) > limits.body):
            raise RequestError(413, f"the body has {declared[:20]} bytes, at most {limits.body} are taken")
        chunks: list[bytes] = []
        taken = 0
        try:
            async with _timeout(seconds):
                async for chunk in request.stream():
                    taken += len(chunk)
                    self._held += len(chunk)
                    if taken > limits.body:
                        raise RequestError(413, f"the body has more than the {limits.body} bytes that are taken")
                    if self._held > limits.bodies:
                        raise busy("too many large requests: try again later")
                    chunks.append(chunk)
            body = _decompressed(b"".join(chunks), request.headers.get("content-encoding", ""), limits.body)
            chunks.clear()
            self._held += len(body) - taken
            taken = len(body)
            if self._held > limits.bodies:
                raise busy("too many large requests: try again later")
            yield body
        except ClientDisconnect:
            raise RequestError(400, "the request was cut short") from None
        finally:
            self._held -= taken


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, which Python 3.10 lacks. Raises RequestError 408."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def cancel() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not late:
            raise
        if hasattr(task, "uncancel"):
            task.uncancel()
        raise RequestError(408, f"the body did not come within {seconds:g} seconds") from None
    finally:
        timer.cancel()


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    encoding = encoding.strip().lower()
    encoding = "gzip" if encoding == "x-gzip" else encoding  # the same (RFC 9110, 8.4.1.3)
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, "bodies may be compressed by gzip or deflate")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is no {encoding}: {error}") from None
    if len(data) > limit:
        raise RequestError(413, f"the body has more than the {limit} bytes that are taken")
    if not unpacker.eof:
        raise RequestError(400, f"the body's {encoding} is cut short")
    if unpacker.unused_data:
        raise RequestError(400, f"the body goes on after the end of its {encoding}: compress it as a whole")
    return data


def is_form(request: Request) -> bool:
    """Whether a request's body is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def files_of(body: bytes, request: Request, limits: Limits) -> list[bytes]:
    """Return the files of a multipart form, never on the disk, or the body itself.

    Raises RequestError.
    """
    if not is_form(request):
        return [body]

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, stream(), max_files=limits.batch, max_fields=16)
    parser.spool_max_size = limits.body + 1  # beyond that a file would be written to the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "") or "it has no boundary"
        raise RequestError(400, f"the form cannot be read: {message}") from None
    files = []
    for value in form.getlist("file") + form.getlist("files"):
        if isinstance(value, str):
            raise RequestError(400, "a form's field file must be a file")
        files.append(await value.read())
    await form.close()
    if not files:
        raise RequestError(400, "the form has no file: curl -F file=@cat.jpg sends one")
    return files
