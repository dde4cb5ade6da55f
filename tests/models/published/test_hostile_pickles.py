"""Pickles from anybody execute nothing, whatever they ask for and however they are wrapped."""

from __future__ import annotations

import argparse
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from bhvit.errors import UserError
from bhvit.models import create_model, from_published, to_published

CALLED = "executed"
"""Name of the file that every hostile pickle tries to create, in the working folder."""
GLOBALS: dict[tuple[str, str], tuple[Any, ...]] = {
    ("os", "system"): (f"touch {CALLED}",),
    ("posix", "system"): (f"touch {CALLED}",),
    ("subprocess", "getoutput"): (f"touch {CALLED}",),
    ("subprocess", "Popen"): (["touch", CALLED],),
    ("builtins", "eval"): (f"open({CALLED!r}, 'w')",),
    ("builtins", "exec"): (f"open({CALLED!r}, 'w')",),
    ("__builtin__", "eval"): (f"open({CALLED!r}, 'w')",),
    ("builtins", "open"): (CALLED, "w"),
    ("io", "open"): (CALLED, "w"),
    ("os", "mkdir"): (CALLED,),
    ("pathlib", "Path.touch"): (CALLED,),
    ("shutil", "copy"): (os.devnull, CALLED),
    ("runpy", "_run_code"): (f"open({CALLED!r}, 'w')", {}),
    ("timeit", "timeit"): ("1", f"open({CALLED!r}, 'w')", None, 1),
    ("pickle", "loads"): (pickle.dumps(0),),
    ("torch", "load"): (CALLED,),
    ("torch.jit", "load"): (CALLED,),
    ("torch.hub", "load"): (CALLED, CALLED),
    ("torch._utils", "_rebuild_tensor_v2"): (f"touch {CALLED}",),
    ("functools", "partial"): (f"touch {CALLED}",),
}


def _argument(value: object) -> bytes:
    """Opcodes that push a value."""
    return pickle.dumps(value, 0)[:-1]


def _programs(module: str, name: str, arguments: tuple[Any, ...]) -> Iterator[tuple[str, bytes]]:
    """Ways of a pickle to have a global called with arguments, each leaving one object."""
    found = f"c{module}\n{name}\n".encode()
    pushed = b"".join(_argument(argument) for argument in arguments)
    stacked = f"V{module}\nV{name}\n".encode() + b"\x93"
    yield "REDUCE", found + b"(" + pushed + b"tR"
    yield "STACK_GLOBAL", stacked + b"(" + pushed + b"tR"
    yield "NEWOBJ", found + b"(" + pushed + b"t\x81"
    yield "NEWOBJ_EX", found + b"(" + pushed + b"t}\x92"
    yield "INST", b"(" + pushed + f"i{module}\n{name}\n".encode()
    yield "OBJ", b"(" + found + pushed + b"o"
    yield "BUILD", found + b"(" + pushed + b"tb"
    yield "memo", found + b"q\x000h\x00(" + pushed + b"tR"


def _legacy(body: bytes) -> bytes:
    """PyTorch's format before zip archives."""
    begin = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, 2) for part in begin) + body + pickle.dumps([], 2)


def _zipped(path: Path, body: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def test_hostile_pickles_execute_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tried = 0
    for (module, name), arguments in GLOBALS.items():
        for how, program in _programs(module, name, arguments):
            for body in (b"\x80\x02" + program + b".", b"\x80\x02}X\x05\x00\x00\x00model" + program + b"s."):
                for wrap in ("bare", "legacy", "zip"):
                    path = tmp_path / "hostile.pth"
                    if wrap == "zip":
                        _zipped(path, body)
                    else:
                        path.write_bytes(body if wrap == "bare" else _legacy(body))
                    with pytest.raises(UserError) as caught:
                        from_published(path)
                    assert "\n" not in str(caught.value)
                    assert not Path(CALLED).exists(), (module, name, how, wrap)
                    tried += 1
    assert tried == len(GLOBALS) * 8 * 2 * 3


def test_the_programs_would_execute_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the test above would prove nothing: Python's own unpickler runs them."""
    monkeypatch.chdir(tmp_path)
    ran = set()
    for how, program in _programs("os", "mkdir", (CALLED,)):
        try:
            pickle.loads(b"\x80\x02" + program + b".")
        except (TypeError, AttributeError, pickle.UnpicklingError):  # mkdir is no class, and has no state
            continue
        if Path(CALLED).exists():
            ran.add(how)
            Path(CALLED).rmdir()
    assert {"REDUCE", "STACK_GLOBAL", "INST", "OBJ", "memo"} <= ran


def test_a_refused_file_changes_nothing_for_others(tmp_path: Path) -> None:
    good = tmp_path / "good.pth"
    torch.save({"w": torch.ones(3)}, good)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    build = b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__(cos\nsystem\nts\x86b0}."
    (tmp_path / "bad.pth").write_bytes(_legacy(b"\x80\x02" + build))
    with pytest.raises(UserError):
        from_published(tmp_path / "bad.pth")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    torch.testing.assert_close(torch.load(good, weights_only=True)["w"], torch.ones(3))
    with pytest.raises(pickle.UnpicklingError):  # the stand-ins of our reader are forgotten
        _loaded_weights_only(tmp_path / "args.pth", argparse.Namespace(lr=1))


def _loaded_weights_only(path: Path, held: object) -> None:
    torch.save({"args": held}, path)
    with pytest.raises(UserError, match="not published"):
        from_published(path)
    torch.load(path, weights_only=True)


def test_what_trainers_store_with_the_weights_is_ignored(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        pytest.skip("this PyTorch cannot list what a file asks for")
    state = to_published(create_model("bhvit_tiny", num_classes=3, img_size=32))
    path = tmp_path / "checkpoint.pth"
    args = argparse.Namespace(lr=1e-3, out=PurePosixPath("runs"))
    torch.save({"model": state, "args": args, "epoch": 3, "best": {1, 2}}, path)
    assert from_published(path).spec.name == "bhvit_tiny"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        from_published(tmp_path / "pipe.pth")
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.FIFOTYPE
            archive.addfile(info)
    with pytest.raises(UserError, match=r"tar format of PyTorch before 0\.1\.10"):
        from_published(tmp_path / "old.pth")


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"vit.a": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert (tmp_path / "b.pth").stat().st_size < 50_000
    with pytest.raises(UserError, match=r"b\.pth unpacks to 4\d+ bytes, more than it has"):
        from_published(tmp_path / "b.pth")
    with pytest.raises(UserError, match="not published BHViT"):
        from_published(path)


def _nested(levels: int) -> bytes:
    """A dictionary whose key is twice a tuple that is twice a tuple, and so on: 2^levels elements, 5 bytes a level."""
    body = b"\x80\x02}K\x01\x85q\x00"
    for level in range(levels):
        body += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    return body + b"K\x02s."


@pytest.mark.parametrize("zipped", [True, False])
def test_tuples_that_hold_each_other_many_times_are_refused(tmp_path: Path, zipped: bool) -> None:
    """Hashing 2^60 elements would take centuries."""
    path = tmp_path / "a.pth"
    for levels, said in ((2, "not published BHViT"), (60, "its tuples hold each other too many times")):
        if zipped:
            _zipped(path, _nested(levels))
        else:
            path.write_bytes(_legacy(_nested(levels)))
        with pytest.raises(UserError, match=said):
            from_published(path)
