"""Frames of video files, cameras and streams, by PyAV (FFmpeg)."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ... import decode
from ...decode import Needed
from ...errors import UserError, require_extra
from .picture import Decoded, Failed, Part, Picture, Still
from .web import shown_address

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .wmv .flv .3gp .ogv .mjpeg .mjpg .h264 .hevc".split()
)
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mjpeg,mpjpeg,jpeg_pipe,m4v,h264,hevc"
)
"""FFmpeg's names of the formats that a video file may have: others, such as playlists, name more files to open."""
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "rtp", "srt")
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's name for the cameras of a system."""
_DEVICE = "/dev/video"
_TIMEOUT = 15.0
"""Seconds in which a stream must open, and send its next packet."""


class Frame(Picture):
    """A decoded frame, still in the colours of its video."""

    def __init__(self, name: str, frame: Any) -> None:
        super().__init__(name, None if frame.time is None else float(frame.time))
        self._frame = frame

    def image(self, needed: Needed | None = None) -> Decoded:
        try:
            pixels: Any = self._frame.to_ndarray(format="rgb24")
        except _failures() as error:
            raise UserError(f"{self.name} cannot be converted to RGB: {error}") from None
        turns = round(getattr(self._frame, "rotation", 0) / 90) % 4  # phones turn the display, not the pixels
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def portable(self) -> Picture:
        try:
            return Still(self.name, np.asarray(self.image()), self.seconds)
        except UserError as error:
            return Failed(self.name, str(error))


class Video(Part):
    """Every `every`-th frame of a video file or address, in order, none dropped."""

    def __init__(self, source: str, every: int = 1) -> None:
        self._source, self._every = source, every
        container, stream = _open(source, {"format_whitelist": _CONTAINERS})
        frames = stream.frames  # 0: the file does not say
        self.total = -(-frames // every) if frames else None
        container.close()

    def __iter__(self) -> Iterator[Picture]:
        name = shown_address(self._source)
        container, stream = _open(self._source, {"format_whitelist": _CONTAINERS})
        number = -1
        with container:
            try:
                for number, frame in enumerate(container.decode(stream)):
                    if number % self._every == 0:
                        yield Frame(f"{name} frame {number}", frame)
            except _failures() as error:
                where = f"after frame {number}" if number >= 0 else "at its first frame"
                reason = f"{name} is damaged {where}: {_reason(error)}{_too_large(stream)}"
                yield Failed(f"{name} frame {number + 1}", reason)


class Live(Part):
    """The newest frame of a camera or stream; late ones are dropped."""

    live = True

    def __init__(self, source: str, every: int = 1, options: Mapping[str, str] | None = None) -> None:
        self._source, self._every = source, every
        self._container, self._stream = _open(source, options)
        self._changed = threading.Condition()
        self._newest: Picture | None = None
        self._ended = False
        self._stopped = False
        self._reader = threading.Thread(target=self._read, name="bhvit-live", daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[Picture]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended)
                picture, self._newest = self._newest, None
            if picture is None:
                return
            yield picture

    def close(self) -> None:
        self._stopped = True
        self._reader.join(2 * _TIMEOUT)

    def _read(self) -> None:
        name = shown_address(self._source)
        number = -1
        try:
            with self._container:
                for number, frame in enumerate(self._container.decode(self._stream)):
                    if self._stopped:
                        break
                    if number % self._every == 0:
                        self._offer(Frame(f"{name} frame {number}", frame))
        except _failures() as error:
            reason = f"{name} ended after frame {number}: {_reason(error)}{_too_large(self._stream)}"
            self._offer(Failed(f"{name} frame {number + 1}", reason))
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _offer(self, picture: Picture) -> None:
        with self._changed:
            if self._newest is not None:
                self.dropped += 1
            self._newest = picture
            self._changed.notify_all()


def camera(number: int) -> str:
    """Return FFmpeg's name of a camera: device file on Linux, else the number."""
    return f"{_DEVICE}{number}" if sys.platform == "linux" else str(number)


def _is_camera(source: str) -> bool:
    return source.startswith(_DEVICE) if sys.platform == "linux" else source.isdigit()


def _open(source: str, options: Mapping[str, str] | None = None) -> tuple[Any, Any]:
    """A container and its first video stream. Raises UserError."""
    try:
        import av
    except ImportError:
        raise require_extra("av", "video") from None
    name = shown_address(source)
    limit = {"max_pixels": str(decode.MAX_PIXELS)}  # of a frame: FFmpeg's own is eight times as many
    form, chosen = None, {**(options or {}), **limit}
    if _is_camera(source):
        form = _CAMERAS.get(sys.platform)
        if form is None:
            raise UserError(f"cameras of {sys.platform} are not read; give a file or an address")
    elif source.startswith("rtsp") and "rtsp_transport" not in chosen:
        chosen["rtsp_transport"] = "tcp"
    av.logging.set_level(av.logging.PANIC)  # what is wrong is said by the exception
    try:
        container = av.open(source, format=form, options=chosen, timeout=_TIMEOUT)
    except _failures() as error:
        refused = "format_whitelist" in chosen and getattr(error, "errno", None) == errno.EINVAL
        reason = "its format is none of " + _CONTAINERS.replace(",", ", ") if refused else _reason(error)
        raise UserError(f"cannot open {name} as a video: {reason}") from None
    streams = container.streams.video
    if not streams:
        container.close()
        raise UserError(f"{name} has no video stream")
    streams[0].codec_context.options = limit
    streams[0].thread_type = "AUTO"
    return container, streams[0]


def _too_large(stream: Any) -> str:
    """What a message adds where FFmpeg has found no size of frames: it does not say that they are too large."""
    allowed = f"at most {decode.MAX_PIXELS} pixels are decoded; BHVIT_MAX_PIXELS allows more"
    return "" if stream.codec_context.width else f", or its frames are too large ({allowed})"


def _failures() -> tuple[type[Exception], ...]:
    """Return what PyAV raises: FFmpeg's errors, and some of Python's."""
    import av

    return (av.FFmpegError, OSError, ValueError)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
