"""What a server takes at most, and the errors that it answers with."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server. None of them is a setting of a model."""

    queue: int = 64
    """Requests that wait for a session at most; more are refused at once."""
    body: int = 16 << 20
    """Bytes of the body of a request, also after decompression."""
    bodies: int = 256 << 20
    """Bytes of the bodies of all requests at the same time."""
    answer: int = 64 << 20
    """Bytes of the logits of an answer: a segmentation has them for each pixel."""
    pixels: int = 50_000_000
    """Pixels of a picture."""
    batch: int = 64
    """Images of a request."""
    seconds: float = 30.0
    """Time that a request may take, from its first byte to its answer."""
    connections: int = 256
    """Open connections."""


class RequestError(Exception):
    """A request that is refused: its status, and one line for the client."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def busy(message: str, seconds: float = 1.0) -> RequestError:
    """Return the error of a server that has too much to do now."""
    return RequestError(503, message, max(1, round(seconds)))
