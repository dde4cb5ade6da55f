"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .errors import UserError


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk and rename it into place.

    An interruption at any moment leaves the old file, or none, but never a part of the new one.
    Raises UserError if the folder is absent or cannot be written.
    """
    path = Path(path)
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o666 & ~_umask())  # mkstemp makes private files
        Path(beside).replace(path)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


def refuse_existing(path: str | Path, force: bool) -> None:
    """Raises UserError if `path` exists and `force` is not set, or if its folder is absent."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if path.exists() and not force:
        raise UserError(f"{path} exists; --force (force=True) replaces it")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
