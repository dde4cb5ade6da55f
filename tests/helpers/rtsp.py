"""A camera on the network: an RTSP server that plays a video over its own connection, as the client asks."""

from __future__ import annotations

import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

_LARGEST = 1200
"""Bytes of a packet."""


def encoded(frames: int, size: tuple[int, int] = (48, 64)) -> list[bytes]:
    """Frames of MPEG-4, frame k grey of shade 20 k modulo 260, each decoded alone."""
    import av

    encoder: Any = av.CodecContext.create("mpeg4", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *size, "yuv420p"
    encoder.bit_rate, encoder.framerate, encoder.time_base, encoder.gop_size = 4_000_000, 25, Fraction(1, 25), 1
    packets = []
    for number in range(frames):
        pixels = np.full((*size, 3), 20 * number % 260, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = number
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while request := self._request():
            method, number = request
            self.server.asked.append(method)  # type: ignore[attr-defined]
            fields, body = "", b""
            if method == "OPTIONS":
                fields = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                fields, body = "Content-Type: application/sdp\r\n", _SDP.encode()
            elif method == "SETUP":
                fields = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "PLAY":
                fields = "Session: 1\r\n"
            head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)
            if method == "PLAY":
                self._play()
                return

    def _request(self) -> tuple[str, str] | None:
        line = self.rfile.readline().decode()
        if not line:
            return None
        number = "0"
        while (field := self.rfile.readline().decode().strip()) != "":
            name, _, value = field.partition(":")
            number = value.strip() if name.lower() == "cseq" else number
        return line.split()[0], number

    def _play(self) -> None:
        sequence = 0
        for index, frame in enumerate(self.server.frames):  # type: ignore[attr-defined]
            for start in range(0, len(frame), _LARGEST):
                part = frame[start : start + _LARGEST]
                last = start + _LARGEST >= len(frame)
                head = struct.pack(">BBHII", 0x80, 96 | last << 7, sequence & 0xFFFF, 3600 * index, 7)
                packet = head + part
                sequence += 1
                try:
                    self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                except OSError:  # the reader has gone
                    return
            time.sleep(0.02)


_SDP = """v=0\r
o=- 0 0 IN IP4 127.0.0.1\r
s=camera\r
c=IN IP4 0.0.0.0\r
t=0 0\r
m=video 0 RTP/AVP 96\r
a=rtpmap:96 MP4V-ES/90000\r
a=control:video\r
"""


@contextmanager
def camera(frames: int) -> Iterator[tuple[str, list[str]]]:
    """Serve so many frames, 50 a second; the host with its port, and the methods that were asked for."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.frames, server.asked = encoded(frames), []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()
