"""Lists of the files in large sources, kept between runs.

Finding a million files takes minutes, reading their list does not.

A list is kept below the cache folder (`cache_folder`) with the time of change of each folder, or the time and size of
each file, that it was made from, and is made again when one of them has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_regular, write_atomically

Stamp = Mapping[str, list[int]]
"""Path -> time of change in nanoseconds, and size of a file."""
LARGE = 50_000
"""Sources of more files than this are remembered; smaller ones are looked at in full each time."""
_SETTLED = 2.0
"""Seconds since the last change: one that follows within the clock's tick would not be seen."""


def cache_folder() -> Path:
    """Return the folder of downloads and lists: BHVIT_CACHE, or .cache/bhvit at home.

    A process without a home, as containers with an unnamed user have, gets a folder among the temporary ones.
    """
    given = os.environ.get("BHVIT_CACHE")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache" / "bhvit"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "bhvit-cache"


def stamp_of(path: Path) -> list[int]:
    """Return a stamp that changes when a file's or folder's contents do.

    Its time of change, and of a file its size. Raises OSError.
    """
    status = path.stat()
    return [status.st_mtime_ns] if path.is_dir() else [status.st_mtime_ns, status.st_size]


def recall(what: str) -> Any:
    """Return the value kept as `what`; None if its files have changed."""
    try:
        path = _path(what)
        check_regular(path)
        if hasattr(os, "geteuid") and path.stat().st_uid not in (os.geteuid(), 0):
            return None  # in a folder that others may write to: their lists are not believed
        kept = json.loads(path.read_bytes())
        if all(stamp_of(Path(path)) == stamp for path, stamp in kept["stamp"].items()):
            return kept["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # UserError is a ValueError
    return None


def keep(what: str, stamp: Stamp, value: Any) -> None:
    """Keep a value that JSON can hold, if possible.

    Nothing happens where it cannot be written, or a file has just changed.
    """
    if any(times[0] / 1e9 > time.time() - _SETTLED for times in stamp.values()):
        return
    text = json.dumps({"stamp": stamp, "value": value}, separators=(",", ":"))
    with contextlib.suppress(OSError, UserError):
        path = _path(what)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def remembered(what: str, make: Callable[[], tuple[Stamp, Any]], large: Callable[[Any], bool]) -> Any:
    """Return the value kept as `what`, or make it and keep it if large."""
    value = recall(what)
    if value is None:
        stamp, value = make()
        if large(value):
            keep(what, stamp, value)
    return value


def _path(what: str) -> Path:
    return cache_folder() / "lists" / f"{hashlib.sha256(what.encode(errors='surrogateescape')).hexdigest()[:32]}.json"
