"""Pictures at http and https addresses."""

from __future__ import annotations

import http.client
import io
import urllib.error
import urllib.parse
import urllib.request

from ...decode import Needed, load_image
from ...errors import UserError
from ..stores import MAX_FILE_BYTES
from .picture import Decoded, Picture

TIMEOUT = 20.0
"""Seconds without an answer."""


def shown_address(address: str) -> str:
    """An address for messages and results: a password in it is not shown."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:  # no address: brackets without an end, for example
        scheme, _, rest = address.partition("://")
        return f"{scheme}://…{rest[rest.rfind('@') :]}" if "@" in rest else address
    if "@" not in parts.netloc:
        return address
    user, _, host = parts.netloc.rpartition("@")
    hidden = f"{user.partition(':')[0]}:…@{host}" if ":" in user else parts.netloc
    return urllib.parse.urlunsplit(parts._replace(netloc=hidden))


class WebPicture(Picture):
    """A picture that is downloaded when it is needed, and kept nowhere."""

    def __init__(self, address: str) -> None:
        super().__init__(shown_address(address))
        self._address = address

    def image(self, needed: Needed | None = None) -> Decoded:
        with _answer(self._address) as answer:
            try:
                data = answer.read(MAX_FILE_BYTES + 1)
            except (OSError, http.client.HTTPException) as error:
                raise UserError(f"cannot download {self.name}: {error or type(error).__name__}") from None
        if len(data) > MAX_FILE_BYTES:
            raise UserError(f"{self.name} has more than {MAX_FILE_BYTES} bytes: BHVIT_MAX_FILE_BYTES allows more")
        return load_image(io.BytesIO(data), self.name, needed=needed)


def content_type(address: str) -> str:
    """Ask a server for the type of an address, such as image/jpeg.

    Raises UserError if it does not answer.
    """
    with _answer(address) as answer:
        kind: str = answer.headers.get_content_type()
        return kind


def _answer(address: str) -> http.client.HTTPResponse:
    name = shown_address(address)
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "bhvit", "Accept": "image/*, */*;q=0.5"})
        opened: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        return opened
    except urllib.error.HTTPError as error:
        error.close()
        raise UserError(f"cannot download {name}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise UserError(f"cannot download {name}: {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {name}: {error or type(error).__name__}") from None
