"""Small videos, and servers of pictures and streams on this machine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def video(path: Path, frames: int = 12, size: tuple[int, int] = (48, 64)) -> Path:
    """A video whose frame k is grey of shade 20 k modulo 260, 10 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for shade in range(frames):
            pixels = np.full((*size, 3), 20 * shade % 260, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def jpeg(shade: int, size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        name, _, option = self.path.strip("/").partition("?")
        if name == "stream":
            self._stream(int(option or 20))
        elif name in self.server.files:  # type: ignore[attr-defined]
            kind, data = self.server.files[name]  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_error(404)

    def _stream(self, frames: int) -> None:
        """A camera's stream of JPEG pictures, 50 a second."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(frames):
            data = jpeg(number)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:  # the reader has gone
                return
            time.sleep(0.02)  # what makes the source a live one


@contextmanager
def serving(**files: tuple[str, bytes]) -> Iterator[str]:
    """Serve files, {name: (content type, bytes)}, and /stream?FRAMES; the address without a name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files = files  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
