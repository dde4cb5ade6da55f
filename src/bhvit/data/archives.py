"""Images as members of zip and tar archives, read without unpacking them to the disk."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import IO, Any

from ..errors import UserError
from ..files import check_regular
from .stores import FileStore, check_size, read_range, reading, without_side_files

_CHUNK = {zipfile.ZIP_STORED: 1 << 20, zipfile.ZIP_DEFLATED: 1 << 20}
"""Bytes of a zip member that are asked for at once. Of other methods, zipfile unpacks all that a chunk of packed bytes
holds, up to 20,000 times as many."""
_PACKED_CHUNK = 4096
MAX_HEADER = 1 << 20
"""Bytes of a tar member's extended header, which is read into memory: a name, times, comments."""


class ZipStore(FileStore):
    """Files of a zip archive.

    A member that is encrypted, damaged or compressed in an unknown way is one bad image.

    Names may begin with "./" or "/", and have backslashes, as some programs write them. Those that lead out of the
    archive ("..") are left out.
    """

    def __init__(self, path: Path) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._lock = threading.Lock()
        check_regular(path)
        with reading(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_shared(path, infos)
        self._infos: dict[str, zipfile.ZipInfo] = {}
        folders: list[str] = []
        files: list[str] = []
        notes: list[str] = []
        for info in infos:
            parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")]
            name = "/".join(parts)
            if not name:
                notes.append(f"{path}: a member without a name; left out")
            elif ".." in parts:
                notes.append(f"{path}: {info.filename} lies outside the archive; left out")
            elif info.filename.endswith(("/", "\\")):
                folders.append(name)
            else:
                files.append(name)
                self._infos[name] = info
        notes += repeated(path, files)
        super().__init__(
            path, without_side_files(sorted(self._infos)), without_side_files(sorted(folders)), tuple(notes)
        )

    def size(self, index: int) -> int:
        return self._infos[self.members[index]].file_size

    def open(self, index: int) -> IO[bytes] | None:
        member = self.members[index]
        with self._lock, reading(self.root / member):
            self._zip = self._zip or zipfile.ZipFile(self.root)
            info = self._infos[member]
            check_size(self.root / member, info.file_size)
            data = io.BytesIO()
            with self._zip.open(info) as packed:  # at most file_size, whatever else the packed bytes hold
                while chunk := packed.read(_CHUNK.get(info.compress_type, _PACKED_CHUNK)):
                    data.write(chunk)
            data.seek(0)
            return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _check_shared(path: Path, infos: Iterable[zipfile.ZipInfo]) -> None:
    """Raises UserError if members lie over each other, so that a small archive would unpack to any size."""
    size = path.stat().st_size
    packed = sum(info.compress_size for info in infos if info.header_offset + info.compress_size <= size)
    if packed > size:
        raise UserError(f"{path} has members that share their bytes ({packed} of {size}): make it again")


class TarStore(FileStore):
    """Files of an uncompressed tar archive, read where they lie.

    Links stand for the members they name.

    Sparse files, devices, and links that lead to no file of the archive are left out, which `notes` says.
    """

    def __init__(self, path: Path) -> None:
        infos = tar_members(path)
        self._where, notes = locate(path, infos)
        folders = sorted(normpath(info.name) for info in infos if info.isdir())
        notes += repeated(path, [normpath(info.name) for info in infos if info.isreg()])
        super().__init__(path, without_side_files(sorted(self._where)), without_side_files(folders), tuple(notes))

    def size(self, index: int) -> int:
        return self._where[self.members[index]][1]

    def open(self, index: int) -> IO[bytes] | None:
        return read_range(self.root, self.name(index), *self._where[self.members[index]])


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """Return the members of an uncompressed tar archive.

    Raises UserError if it is compressed or damaged.
    """
    check_regular(path)
    with reading(path):
        try:
            with open_tar(path) as archive:
                members = archive.getmembers()
                check_end(path, archive)
                return members
        except tarfile.ReadError as error:
            reason = f"{path} is not a whole, uncompressed tar archive ({error})"
            raise UserError(f"{reason}; unpack it, or make a zip") from None


class _BoundedInfo(tarfile.TarInfo):
    """A tar member with a bound on the size of its extended headers.

    `tarfile` reads them as a whole, at any size that they claim.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in (*kinds, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) and self.size > MAX_HEADER:
            path = os.fsdecode(archive.name or "")
            raise UserError(f"{path} has a member with {self.size} bytes of header, at most {MAX_HEADER} are read")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


def open_tar(path: Path) -> tarfile.TarFile:
    """An uncompressed tar archive. Raises tarfile.ReadError, and UserError for members with very large headers."""
    return tarfile.open(path, "r:", tarinfo=_BoundedInfo)


def check_end(path: Path, archive: tarfile.TarFile) -> None:
    """Raises UserError unless only zeros follow the last member that was found.

    `tarfile` stops without a word at a damaged header.

    A header in the middle may be damaged, or archives joined to one. An archive that ends without the zeros that mark
    its end was cut short.
    """
    with path.open("rb") as file:
        file.seek(archive.offset)
        found = 0
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise UserError(
                    f"{path} has members after a damaged header or the end of a first archive: make it again"
                )
            found += len(block)
    if not found:
        raise UserError(f"{path} is cut short: it does not end as a tar archive does; copy or download it again")


def repeated(path: Path, names: Iterable[str]) -> list[str]:
    """A line for each name that several members of an archive have."""
    return [
        f"{path}: {count} members are called {name}; the last of them is read"
        for name, count in Counter(names).items()
        if count > 1
    ]


def locate(path: Path, infos: list[tarfile.TarInfo]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Return (offset, size) of a tar archive's files by name, and notes.

    Names are normalised; the notes say what was left out.

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
    ends: dict[str, str] = {}
    """What a chain of links leads to, by each of its links: none is followed twice."""
    for name, target in targets.items():
        chain = {name}
        while target in targets and target not in chain and target not in ends:
            chain.add(target)
            target = targets[target]
        target = ends.get(target, target)
        ends.update(dict.fromkeys(chain, target))
        if target in places:
            places[name] = places[target]
        else:
            notes.append(f"{path / name} is a link to {target}, which is no file of the archive")
    return places, notes


def sparse(info: tarfile.TarInfo) -> bool:
    """Whether a member is sparse: stored without its runs of zeros."""
    return info.issparse() or any(key.startswith("GNU.sparse.") for key in info.pax_headers)
