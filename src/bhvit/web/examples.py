"""Example pictures for a site: the first few of each class of a folder, as small JPEGs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..data.folders import FolderStore
from ..data.inputs.picture import UNREAD_SUFFIXES
from ..decode import IMAGE_SUFFIXES, convert
from ..errors import UserError, report

EDGE = 320
"""Longer edge of an example in pixels, at most."""
EACH = 3
"""Examples of a class, at most."""
MAX_CLASSES = 60


class Group(NamedTuple):
    """Examples of one class."""

    name: str
    pictures: tuple[bytes, ...]
    """JPEG files."""


def read_examples(folder: Path) -> list[Group]:
    """Read the first pictures of each class of a folder `class/picture`.

    At most `EACH` pictures of `MAX_CLASSES` classes; files that cannot be read are passed over, and pictures among them
    are named on standard error. Raises UserError where nothing is left.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: --examples names one with a folder of pictures for each class")
    store = FolderStore(folder)
    found: dict[str, list[bytes]] = {}
    for index, member in enumerate(store.members):
        name, _, rest = member.partition("/")
        pictures = found.get(name, [])
        if not rest or len(pictures) == EACH or (not pictures and len(found) == MAX_CLASSES):
            continue
        picture = _small(store, index)
        if picture is not None:
            found[name] = [*pictures, picture]
    if not found:
        raise UserError(f"{folder} has no pictures in folders named after their classes")
    return [Group(name, tuple(pictures)) for name, pictures in found.items()]


def _small(store: FolderStore, index: int) -> bytes | None:
    """A picture as a small JPEG; None for a file that is no picture."""
    try:
        image = convert(store.image(index), 3)
    except UserError as error:
        if Path(store.members[index]).suffix.lower() in IMAGE_SUFFIXES | UNREAD_SUFFIXES:
            report(f"skipped: {error}")
        return None
    image.thumbnail((EDGE, EDGE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
