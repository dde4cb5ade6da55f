"""Images as members of zip and tar archives, read without unpacking them to the disk."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import IO, Any

from ..errors import UserError
from .stores import FileStore, check_size, read_range, reading, without_side_files


class ZipStore(FileStore):
    """Files of a zip archive. A member that is encrypted, damaged or compressed in an unknown way is one bad image."""

    def __init__(self, path: Path) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        with reading(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        self._sizes = {info.filename: info.file_size for info in infos if not info.is_dir()}
        members = sorted(self._sizes)
        folders = sorted(info.filename.rstrip("/") for info in infos if info.is_dir())
        super().__init__(path, without_side_files(members), without_side_files(folders))

    def size(self, index: int) -> int:
        return self._sizes[self.members[index]]

    def open(self, index: int) -> IO[bytes] | None:
        member = self.members[index]
        with self._lock, reading(self.root / member):
            self._zip = self._zip or zipfile.ZipFile(self.root)
            check_size(self.root / member, self._sizes[member])
            return io.BytesIO(self._zip.read(member))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class TarStore(FileStore):
    """Files of an uncompressed tar archive, read where they lie; links stand for the members they name.

    Sparse files, devices, and links that lead to no file of the archive are left out, which `notes` says.
    """

    def __init__(self, path: Path) -> None:
        infos = tar_members(path)
        self._where, notes = locate(path, infos)
        folders = sorted(normpath(info.name) for info in infos if info.isdir())
        super().__init__(path, without_side_files(sorted(self._where)), without_side_files(folders), tuple(notes))

    def size(self, index: int) -> int:
        return self._where[self.members[index]][1]

    def open(self, index: int) -> IO[bytes] | None:
        return read_range(self.root, self.name(index), *self._where[self.members[index]])


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """Return the members of an uncompressed tar archive. Raises UserError if it is compressed or damaged."""
    with reading(path):
        try:
            with tarfile.open(path, "r:") as archive:
                return archive.getmembers()
        except tarfile.ReadError as error:
            reason = f"{path} is not a whole, uncompressed tar archive ({error})"
            raise UserError(f"{reason}; unpack it, or make a zip") from None


def locate(path: Path, infos: list[tarfile.TarInfo]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Where the files of a tar archive lie, (offset, size) by normalised name, and what is left out.

    Hard and symbolic links get the place of the member that they name, directly or through other links.
    """
    places = {normpath(info.name): (info.offset_data, info.size) for info in infos if info.isreg() and not sparse(info)}
    targets: dict[str, str] = {}
    notes = []
    for info in infos:
        name = normpath(info.name)
        if info.islnk():
            targets[name] = normpath(info.linkname)
        elif info.issym():
            targets[name] = normpath(join(dirname(name), info.linkname))
        elif sparse(info):
            notes.append(f"{path / name} is a sparse member, which is not read")
        elif not (info.isreg() or info.isdir()):
            notes.append(f"{path / name} is no file but a device or pipe")
    for name, target in targets.items():
        seen = {name}
        while target in targets and target not in seen:
            seen.add(target)
            target = targets[target]
        if target in places:
            places[name] = places[target]
        else:
            notes.append(f"{path / name} is a link to {target}, which is no file of the archive")
    return places, notes


def sparse(info: tarfile.TarInfo) -> bool:
    """Whether a member leaves out runs of zeros, so that its bytes do not lie in the archive as they are."""
    return info.issparse() or any(key.startswith("GNU.sparse.") for key in info.pax_headers)
