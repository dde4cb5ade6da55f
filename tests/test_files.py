"""Writing files whole, or not at all, and never over what is no file."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from bhvit.errors import UserError
from bhvit.files import STALE_SECONDS, check_absent, check_regular, remove_parts, write_atomically


def test_the_umask_decides_about_permissions_and_stays(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / f"{mask}", b"x")
            assert os.umask(mask) == mask
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == mode


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write .*a: No space left on device"):
        write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_a_file_system_that_cannot_flush_still_gets_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_a_disk_error_is_no_missing_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="Input/output error"):
        write_atomically(tmp_path / "a", b"x")
    assert not list(tmp_path.iterdir())


def test_of_a_link_the_file_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        for refuse in (check_regular, lambda path: check_absent(path, force=True), lambda p: write_atomically(p, b"x")):
            with pytest.raises(UserError, match="is a pipe, socket or device"):
                refuse(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(UserError, match="is a folder"):
        check_regular(tmp_path)


def test_parts_of_killed_writers_go_and_other_files_stay(tmp_path: Path) -> None:
    for name in (".a.12345678.part", "a", "b.part", ".hidden"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "a", "b.part"]


def test_parts_that_killed_processes_left_of_the_same_file_are_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".a[1].bhv.0123abcd.part", tmp_path / ".a[1].bhv.4567abcd.part"
    other = tmp_path / ".a1.bhv.0123abcd.part"
    for path in (old, young, other):
        path.write_bytes(b"half")
    long_ago = time.time() - STALE_SECONDS - 10
    for path in (old, other):
        os.utime(path, (long_ago, long_ago))
    write_atomically(tmp_path / "a[1].bhv", b"x")
    assert not old.exists()
    assert young.exists()  # a process may be writing it
    assert other.exists()  # of another file
