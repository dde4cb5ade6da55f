"""Images as files below a folder."""

from __future__ import annotations

import heapq
import os
import stat
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..files import is_side_file
from .index_cache import LARGE, Stamp, remembered, stamp_of
from .stores import FileStore, check_size, reading


class FolderStore(FileStore):
    """Files below a folder, in sorted order.

    Links to folders are followed, also those that lead out of the folder, but every folder is read once: under its own
    name if that lies below the root, else under the first link that leads to it. What is left out is in `notes`.
    """

    def __init__(self, root: Path) -> None:
        what = f"folder, entered once\n{root.absolute()}"
        members, folders, notes = remembered(what, lambda: _walk(root), lambda found: len(found[0]) > LARGE)
        super().__init__(root, members, folders, tuple(notes))

    @property
    def stamp(self) -> Stamp:  # type: ignore[override]
        with reading(self.root):
            return {str(path): stamp_of(path) for path in (self.root.absolute() / name for name in ("", *self.folders))}

    def size(self, index: int) -> int:
        path = self.root / self.members[index]
        with reading(path):
            return path.stat().st_size

    def open(self, index: int) -> IO[bytes] | None:
        path = self.root / self.members[index]
        with reading(path):
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise UserError(f"{path} is not a regular file")
            check_size(path, status.st_size)
            return path.open("rb")


def _walk(root: Path) -> tuple[Stamp, tuple[list[str], list[str], list[str]]]:
    """Files and folders below `root`, each as "a/b", and what was left out."""
    members: list[str] = []
    folders: list[str] = []
    notes: list[str] = []
    stamp: dict[str, list[int]] = {}
    entered: set[tuple[int, int]] = set()
    links: list[Path] = []

    def enter(top: Path) -> None:
        """Everything below `top` but for links to folders, which wait in `links`."""
        for folder, names, files in os.walk(top, onerror=_raise):
            here = Path(folder)
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:  # below a link that leads above the root
                notes.append(f"{here} is a folder that is read already")
                names[:] = []
                continue
            entered.add((status.st_dev, status.st_ino))
            stamp[str(here.absolute())] = stamp_of(here)
            names[:] = sorted(name for name in names if not is_side_file(name))
            for name in names:
                if (here / name).is_symlink():
                    heapq.heappush(links, here / name)
            names[:] = [name for name in names if not (here / name).is_symlink()]
            below = here.relative_to(root)
            folders.extend((below / name).as_posix() for name in names)
            members.extend((below / name).as_posix() for name in files if not is_side_file(name))

    with reading(root):
        enter(root)
        while links:
            link = heapq.heappop(links)
            status = link.stat()
            if (status.st_dev, status.st_ino) in entered:
                notes.append(f"{link} is a link to a folder that is read already")
                continue
            folders.append(link.relative_to(root).as_posix())
            enter(link)
    return stamp, (sorted(members), sorted(folders), notes)


def _raise(error: OSError) -> None:
    raise error
