"""Images that cannot be used, found before any is needed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ..decode import load_image
from ..errors import UserError
from ..system import allowed_cores
from .index_cache import LARGE, keep, recall
from .stores import Store

THOROUGH_CHECK = LARGE
"""Up to this many images are decoded when a set is opened; of larger sets only the ends of JPEG files
are looked at, once."""


def find_damaged(store: Store, indices: npt.NDArray[np.int64], source: str, first_only: bool) -> dict[int, str]:
    """Say why images cannot be used, by their place in `indices` (N,).

    `indices` are numbers of images in `store`.

    What was found in a large set is remembered: then those images are looked at again, no others. With `first_only`
    the rest may be missing.
    """
    thorough = len(indices) <= THOROUGH_CHECK
    what = f"damaged\n{Path(source).absolute()}\n{hashlib.sha256(indices.tobytes()).hexdigest()}"
    known = None if thorough else recall(what)
    found: dict[int, str] = {}
    places = range(len(indices)) if known is None else known
    with ThreadPoolExecutor(min(8, allowed_cores())) as pool:
        for start in range(0, len(places), 1024):
            part = places[start : start + 1024]
            reasons = pool.map(lambda place: _damage(store, int(indices[place]), thorough), part)
            found |= {place: reason for place, reason in zip(part, reasons) if reason}
            if first_only and found:
                return found
    if not thorough and known is None and store.stamp is not None:
        keep(what, store.stamp, list(found))
    return found


def _damage(store: Store, index: int, thorough: bool) -> str | None:
    """Why an image cannot be used, or None."""
    try:
        file = store.open(index)
        if file is None:
            return None
        with file:
            if thorough or not _ends_like_jpeg(file):
                load_image(file, store.name(index), quick=True)
            return None
    except UserError as error:
        return str(error)


def _ends_like_jpeg(file: IO[bytes]) -> bool:
    """Whether a file has the first and last bytes of a JPEG."""
    begin = file.read(3)
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 1024))
    end = file.read()
    file.seek(0)
    return begin == b"\xff\xd8\xff" and b"\xff\xd9" in end
