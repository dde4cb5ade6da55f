"""`Picture`, which waits to be decoded, and `Part`, pictures of one source."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...decode import IMAGE_SUFFIXES, Needed, load_image
from ...errors import UserError

UNREAD_SUFFIXES = frozenset(
    ".jxl .jxr .svg .psd .psb .xcf .eps .pdf .exr .hdr .heics "
    ".dng .cr2 .cr3 .nef .nrw .arw .srf .orf .rw2 .raf .pef .srw .x3f".split()
)
"""Endings of pictures that are not read, camera raw files for example; that some were left out is said."""

Decoded = Image.Image | npt.NDArray[np.uint8]


def left_out(source: str | PurePath, names: Iterable[str]) -> tuple[str, ...]:
    """Return a line about files of a folder or archive that are pictures of kinds that are not read, if it has any."""
    kinds = Counter(suffix for name in names if (suffix := PurePath(name).suffix.lower()) in UNREAD_SUFFIXES)
    if not kinds:
        return ()
    listed = ", ".join(f"{suffix} {count}" for suffix, count in sorted(kinds.items()))
    return (f"{source}: pictures of kinds that are not read are left out ({listed}): convert them",)


def no_images(what: str, source: str | PurePath, names: Iterable[str]) -> UserError:
    """Return the error for a folder or archive without images, which names the kinds that are there but not read."""
    unread = "".join(f"; {line}" for line in left_out(source, names))
    return UserError(f"the {what} {source} holds no images ({', '.join(sorted(IMAGE_SUFFIXES)[:8])}, …){unread}")


class Picture(abc.ABC):
    """A picture that waits to be decoded, in any thread."""

    def __init__(self, name: str, seconds: float | None = None) -> None:
        self.name = name
        """A path, an address, or what stands for one: "clip.mp4 frame 12"."""
        self.seconds = seconds
        """Of a video's frame, its time since the beginning."""

    @abc.abstractmethod
    def image(self, needed: Needed | None = None) -> Decoded:
        """Decode it: a PIL image, or uint8 RGB (H, W, 3). Raises UserError naming it.

        With `needed`, a JPEG may be decoded at a fraction of its size (`load_image`).
        """

    def portable(self) -> Picture:
        """Return the same picture for another process, which shares files alone."""
        return self


class Still(Picture):
    """A picture that has been read: file bytes, or uint8 RGB (H, W, 3)."""

    def __init__(self, name: str, content: bytes | npt.NDArray[np.uint8], seconds: float | None = None) -> None:
        super().__init__(name, seconds)
        self._content = content

    def image(self, needed: Needed | None = None) -> Decoded:
        if isinstance(self._content, bytes):
            return load_image(self._content, self.name, needed=needed)
        return self._content


class Failed(Picture):
    """A picture that could not be read: `image` raises the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.reason = reason

    def image(self, needed: Needed | None = None) -> Decoded:
        raise UserError(self.reason)


class Part(abc.ABC):
    """Pictures of one source, in a fixed order."""

    total: int | None = None
    """How many there are, if that is known before all have been seen."""
    live: bool = False
    """Whether pictures come at their own pace, and late ones are dropped."""
    dropped: int = 0
    """How many late ones have been dropped."""
    notes: tuple[str, ...] = ()
    """What was left out, a line each."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Picture]: ...

    def close(self) -> None:
        """Give up what is open; a live source stops."""
        return
