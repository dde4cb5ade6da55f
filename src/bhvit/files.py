"""Reading and writing files: whole or not at all, and never a pipe or device."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import stat
import time
from pathlib import Path
from typing import IO, Any

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes that write one file are not noticed
    fcntl = None  # type: ignore[assignment]

PART = ".part"
"""Ending of a file that is being written; one that is left over belongs to a process that was killed."""
STALE_SECONDS = 3600.0
"""A part that nothing has been written to for so long belongs to no live process."""
_SIDE_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EROFS, errno.EACCES}
"""What file systems answer that cannot flush on demand, such as mounted buckets."""


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` next to `path`, flush it to the disk and rename it into place.

    An interruption at any moment leaves the old file, or none, but never a part of the new one. Of a link, the file
    that it names is replaced. Raises UserError if the folder is absent or cannot be written, or if `path` is a pipe or
    device.
    """
    shown, path = Path(path), Path(os.path.realpath(path))
    check_regular(path, shown)
    part = new_part(path)
    try:
        # Created as any new file is, under the umask: nothing has to change permissions afterwards.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise UserError(f"cannot write {shown}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            flush(file)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {shown}: {error.strerror}") from error
        raise


def flush(file: IO[Any]) -> None:
    """Flush a file to the disk, where its file system can.

    Raises OSError if the disk is full or fails.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def lock(handle: int) -> None:
    """Hold an open file for this process until it is closed, however the process ends.

    Raises BlockingIOError if another process holds it. File systems without locks, such as some network ones, hold
    nothing.
    """
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def is_side_file(name: str) -> bool:
    """Whether a file or folder is hidden, or one that macOS and Windows leave behind."""
    return name.startswith(".") or name.lower() in _SIDE_FILES


def new_part(path: Path) -> Path:
    """Return a name, next to `path` and no one else's, to write its next version under; stale ones are removed."""
    _remove_stale_parts(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")


def remove_parts(folder: Path) -> None:
    """Remove the partial files that killed processes left in a folder.

    The caller must hold the folder for itself.
    """
    for part in folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


def _remove_stale_parts(path: Path) -> None:
    """Remove what processes that were killed left of earlier versions of this file."""
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f".{glob.escape(path.name)}.????????{PART}"):
            with contextlib.suppress(OSError):
                if time.time() - part.lstat().st_mtime > STALE_SECONDS:
                    part.unlink()


def check_regular(path: Path, shown: Path | None = None) -> None:
    """Raise UserError if `path` is a folder, pipe, socket or device.

    Reading or replacing one would wait for ever, never end, or destroy it.
    """
    shown = shown or path
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # absent, or not to be looked at: opening it says why
    if stat.S_ISDIR(mode):
        raise UserError(f"{shown} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown} is a pipe, socket or device, not a file")


def check_folder(path: str | Path) -> None:
    """Raise UserError if `path` cannot be a folder to write: a file is there."""
    if Path(path).exists() and not Path(path).is_dir():
        raise UserError(f"{path} is a file; --out names a folder")


def check_absent(path: str | Path, force: bool) -> None:
    """Raise UserError if a file may not be written to `path`.

    It may not if it exists and `force` is not set, or if its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    check_regular(path)
    if path.exists() and not force:
        raise UserError(f"{path} exists; --force (force=True) replaces it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")
