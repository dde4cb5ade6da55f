"""Bytes of a packed model made of a header's text and its tensors, good or bad, with the checksum they need."""

from __future__ import annotations

import zlib

NO_CHECKSUM = '"checksum":"00000000"'


def sealed(header: str | bytes, tensors: bytes) -> bytes:
    """Return the file; a header without NO_CHECKSUM keeps the checksum it has, or none."""
    text = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    text += b" " * (-(len(text) + 8) % 64)
    whole = len(text).to_bytes(8, "little") + text + tensors
    return whole.replace(NO_CHECKSUM.encode(), b'"checksum":"%08x"' % zlib.crc32(whole), 1)
