"""Open what a user names: files, folders, patterns, archives, videos, addresses, lists."""

from __future__ import annotations

import glob
import itertools
import os
import sys
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ... import bundled
from ...decode import IMAGE_SUFFIXES
from ...errors import UserError, shown
from ...files import check_regular, is_side_file
from ..folders import FolderStore
from . import stored, video, web
from .files import FilePicture, Files, Listed
from .picture import Part, Picture, left_out, no_images

Source = str | os.PathLike[str] | int
STANDARD_INPUT = "-"
"""The source that is a list of paths and addresses on standard input."""
_PACKED = (*stored.ARCHIVES, ".parquet")


class Inputs:
    """Pictures of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._skipped: Counter[str] = Counter()
        self._wanted: Callable[[str], bool] = lambda name: True

    @property
    def total(self) -> int | None:
        """How many pictures there are, None if only the end will tell."""
        totals = [part.total for part in self._parts]
        return None if None in totals else sum(total or 0 for total in totals)

    @property
    def live(self) -> bool:
        """Whether a source goes at its own pace, so that late pictures are dropped."""
        return any(part.live for part in self._parts)

    @property
    def dropped(self) -> int:
        """How many late pictures have been dropped so far."""
        return sum(part.dropped for part in self._parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out while looking for pictures, a line each."""
        return tuple(note for part in self._parts for note in part.notes)

    def skip(self, names: Mapping[str, int]) -> None:
        """Leave out so many of the next pictures of each name.

        They are those that an earlier run has answered.
        """
        self._skipped = Counter(names)

    def choose(self, wanted: Callable[[str], bool]) -> None:
        """Leave out the pictures whose names `wanted` refuses. It is asked once for each picture, in their order."""
        self._wanted = wanted

    def __iter__(self) -> Iterator[Picture]:
        left = Counter(self._skipped)
        for part in self._parts:
            for picture in part:
                if left[picture.name] > 0:
                    left[picture.name] -= 1
                elif self._wanted(picture.name):
                    yield picture

    def __enter__(self) -> Inputs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop cameras and streams."""
        for part in self._parts:
            part.close()


def open_inputs(sources: Source | Sequence[Source], *, every: int = 1, stdin: IO[bytes] | None = None) -> Inputs:
    """Return the pictures of one or more sources.

    A source is an image file; a folder, whose images are found at any depth; a pattern with *, ? or **; a .zip, .tar or
    .parquet file, or a folder of them; a video file; the number of a camera; an http, https, rtsp, rtmp, udp or srt
    address; or "-", a list of paths and addresses on standard input (`stdin`). Of videos and cameras, every `every`-th
    frame is taken.
    Raises UserError for a source that does not exist or holds no pictures, and for `every` below 1. A single file that
    cannot be read is found later, when its picture is decoded.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(f"every must be a whole number of frames from 1, not {shown(every)}")
    several = [sources] if isinstance(sources, str | bytes) or not isinstance(sources, Sequence) else sources
    if not several:
        raise UserError("there is no source: name image files, folders, archives, videos, cameras or addresses")
    parts: list[Part] = []
    try:
        for source in several:
            parts += _open(source, every, stdin)
    except BaseException:
        Inputs(parts).close()
        raise
    return Inputs(parts)


def _open(source: object, every: int, stdin: IO[bytes] | None) -> list[Part]:
    if isinstance(source, bool) or not isinstance(source, str | os.PathLike | int):
        raise UserError(f"a source is a path, an address or the number of a camera, not {shown(source)}")
    text = str(source) if isinstance(source, int) else os.fspath(source)
    if not text:
        raise UserError("a source is empty: name an image file, folder, archive, video, camera or address")
    if text == STANDARD_INPUT:
        if stdin is None and sys.stdin is None:
            raise UserError("there is no list of pictures: standard input is closed")
        return [Listed(stdin or sys.stdin.buffer, _listed)]
    if "://" in text:
        return [_address(text, every)]
    path = Path(text)
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot look for {text[:200]}: {getattr(error, 'strerror', None) or error}") from None
    if exists:
        return _folder(path, every) if path.is_dir() else [_file(path, every)]
    if text.isascii() and text.isdigit() and len(text) < 4:
        return [video.Live(video.camera(int(text)), every)]
    if any(sign in text for sign in "*?["):
        found = glob.glob(text, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not found:
            raise UserError(f"no file or folder fits {text}")
        return _several(_once(found, "**" in text), every)
    models = f"; a model is named first: a .bhv file, or {', '.join(bundled.list_bundled())}"
    raise UserError(f"there is no image or folder {text}{'' if path.suffix else models}")


def _once(names: Sequence[str], recursive: bool) -> list[Path]:
    """Sort what a pattern found, without what it found again: through links to folders, or below a folder it found.

    Of several ways to an entry of a folder the one without links stays, or the shortest: `**` follows a link to a
    folder above it forty times. A `recursive` pattern that finds files finds those below its folders, too, which are
    then left out; else a folder stands for all below it.
    """
    folders = {name: Path(os.path.realpath(name)) for name in names if Path(name).is_dir()}
    if recursive and len(folders) < len(names):
        names, folders = [name for name in names if name not in folders], {}
    inside = set(folders.values())
    real: dict[str, str] = {}
    found: dict[tuple[str, str], tuple[bool, bool, int, str]] = {}
    for name in names:
        folder, entry = os.path.split(name.rstrip(os.sep))
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        if not inside.isdisjoint((Path(real[folder]), *Path(real[folder]).parents)):
            continue
        linked = real[folder] != str(Path(folder).absolute())
        way = (linked, name in folders and Path(name).is_symlink(), name.count(os.sep), name)
        place = (str(folders[name]), "") if name in folders else (real[folder], entry)
        found[place] = min(way, found.get(place, way))
    return [Path(name) for *_, name in sorted(found.values(), key=lambda way: way[-1])]


def _several(paths: Sequence[Path], every: int) -> list[Part]:
    """Files and folders.

    Images that follow each other are one part, and so are parquet files, which share a cache.
    """
    parts: list[Part] = []
    for kind, group in itertools.groupby(paths, _kind):
        if kind == "image":
            parts.append(Files(list(group)))
        elif kind == "parquet":
            parts += stored.open_parquet_files(list(group))
        else:
            for path in group:
                parts += _folder(path, every) if kind == "folder" else [_file(path, every)]
    return parts


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return "folder" if path.is_dir() else "image" if suffix in IMAGE_SUFFIXES else suffix.removeprefix(".")


def _folder(path: Path, every: int) -> list[Part]:
    """Open a folder's images at any depth, or else its archives and parquet files."""
    inside = FolderStore(path)
    chosen = [path / member for member in inside.members if Path(member).suffix.lower() in IMAGE_SUFFIXES]
    if chosen:
        return [Files(chosen, (*inside.notes, *left_out(path, inside.members)))]
    packed = sorted(
        entry
        for entry in path.iterdir()
        if entry.suffix.lower() in _PACKED and not is_side_file(entry.name) and entry.is_file()
    )
    if not packed:
        raise no_images("folder", path, inside.members)
    return _several(packed, every)


def _file(path: Path, every: int) -> Part:
    suffix = path.suffix.lower()
    if suffix in (*_PACKED, *video.VIDEO_SUFFIXES):
        check_regular(path)
    if suffix in stored.ARCHIVES:
        return stored.open_archive(path)
    if suffix == ".parquet":
        return stored.open_parquet_files([path])[0]
    if suffix in stored.COMPRESSED:
        raise UserError(f"{path} is a compressed archive, which is not read: unpack it, or make a .zip or .tar")
    if suffix in video.VIDEO_SUFFIXES:
        return video.Video(str(path), every)
    if str(path).startswith("/dev/video"):
        return video.Live(str(path), every)
    return Files([path])


def _address(text: str, every: int) -> Part:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError as error:
        raise UserError(f"{web.shown_address(text)} is no address: {error}") from None
    scheme, suffix = parts.scheme.lower(), Path(parts.path).suffix.lower()
    if scheme in video.LIVE_SCHEMES:
        return video.Live(text, every)
    if scheme not in ("http", "https"):
        known = ", ".join(("http", "https", *video.LIVE_SCHEMES))
        raise UserError(f"{web.shown_address(text)} is of no known kind: addresses begin with {known}")
    if suffix in IMAGE_SUFFIXES:
        return _Addresses([text])
    if suffix in video.VIDEO_SUFFIXES - {".ts", ".mjpeg", ".mjpg"}:
        return video.Video(text, every)
    kind = web.content_type(text)
    if kind.startswith(("video/", "multipart/")) or "mpegurl" in kind.lower():
        return video.Live(text, every)
    return _Addresses([text])


class _Addresses(Part):
    """Pictures at addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self.total = len(addresses)

    def __iter__(self) -> Iterator[Picture]:
        return map(web.WebPicture, self._addresses)


def _listed(text: str) -> Picture:
    return web.WebPicture(text) if text.startswith(("http://", "https://")) else FilePicture(text)
