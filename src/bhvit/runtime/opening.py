"""Check what opens and feeds a session, and open the native program of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import bundled
from .._native import Program, available_isas
from ..decode import ImageLike
from ..errors import FormatError, UserError, shown
from ..system import MAX_THREADS, allowed_cores
from ..text import without_middle

Source = str | os.PathLike[str] | bytes


def worker_count(workers: Any, threads: int) -> int:
    """Return how many sessions of so many threads run at the same time.

    Raises UserError for an impossible number.
    """
    if workers == "auto":
        return max(1, allowed_cores() // threads)
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_THREADS:
        raise UserError(f"workers must be a whole number from 1 to {MAX_THREADS}, or 'auto', not {shown(workers)}")
    return workers


def check_top(top: Any) -> None:
    """Raises UserError for an impossible number of classes to name."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise UserError(f"top must be a whole number of at least 1, not {shown(top)}")


def check_options(threads: Any, isa: Any, max_memory: Any, map: Any) -> None:
    """Raises UserError for options of `Session` of a wrong type or out of range."""
    whole = isinstance(threads, int) and not isinstance(threads, bool) and 0 <= threads <= MAX_THREADS
    if not whole and not (isinstance(threads, str) and threads == "auto"):
        raise UserError(f"threads must be a whole number from 1 to {MAX_THREADS}, or 0 or 'auto', not {shown(threads)}")
    if not isinstance(isa, str):
        raise UserError(f"isa must be auto or one of {', '.join(available_isas())}, not {shown(isa)}")
    if max_memory is not None and not (type(max_memory) is int and 1 <= max_memory < 1 << 64):
        raise UserError(f"max_memory must be a positive number of bytes, or None for 512 MiB, not {shown(max_memory)}")
    if map is not None and not isinstance(map, bool):
        raise UserError(f"map must be True, False or None, not {shown(map)}")


def checked_source(source: Any) -> str | Path | bytes:
    """Return what names or holds a model: a path, a name, or bytes.

    Raises UserError for other objects.
    """
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | os.PathLike | bytes) or (not isinstance(source, bytes) and not os.fspath(source)):
        raise UserError(f"a model is a path, the bytes of a file or the name of a bundled one, not {shown(source)}")
    return Path(source) if isinstance(source, os.PathLike) else source


def open_program(
    source: str | Path | bytes, threads: int, isa: str, max_memory: int | None, map: bool | None
) -> Program:
    """Open the native program of a file; native code checks all of it.

    Raises UserError if it cannot be read, takes more than `max_memory` bytes, or there is no such instruction set, and
    FormatError (a UserError) if it is damaged.
    """
    try:
        if isinstance(source, bytes):
            return Program(source, threads, isa, max_memory)
        return Program.open(os.fsencode(bundled.find(source, ".bhv")), threads, isa, max_memory, map)
    except OSError as error:
        hint = bundled.hint(source) if not isinstance(source, bytes) and len(str(source)) < 256 else ""
        raise UserError(f"cannot read {named(source)}{error.strerror}{hint}") from error
    except FormatError as error:
        raise FormatError(f"{named(source)}{error}") from error
    except UserError as error:
        raise UserError(f"{named(source)}{error}") from error
    except (ValueError, RuntimeError) as error:  # no such instruction set; threads that cannot start
        raise UserError(str(error)) from error


def named(source: str | Path | bytes) -> str:
    """Return how messages about a model begin."""
    if isinstance(source, bytes):
        return "the model's bytes: "
    text = str(bundled.find(source, ".bhv")) if len(str(source)) < 256 else str(source)
    return f"{without_middle(text)}: "


def header_of(source: Any) -> bytes:
    """Return the bytes of a packed file before its tensors.

    Native code has checked them already.
    """
    return bytes(source[: 8 + int.from_bytes(source[:8], "little")])


def checked_picture(image: Any) -> ImageLike:
    """Return what holds a picture, as `Preprocess` takes it.

    Raises UserError for objects of other types.
    """
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, str | os.PathLike | bytes | Image.Image | np.ndarray):
        kinds = "a path, the bytes of an image file, a PIL image or a uint8 array (H, W, C)"
        raise UserError(f"an image is {kinds}, not {shown(image)}")
    return Path(image) if isinstance(image, os.PathLike) else image
