"""Fuzzes Python's readers with atheris: `python tests/fuzz/readers.py READER [libFuzzer's options] FOLDER`.

Without arguments it prints the readers. Whatever bytes a reader is given, it answers or raises UserError; any other
exception is a finding, and so is a packed model that one of the two readers takes and the other refuses. FOLDER gets
good inputs to start from. Needs `pip install atheris`, which has no place in the project's own extras.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SCRATCH = Path(tempfile.gettempdir()) / f"bhvit-readers-{os.getpid()}"
Target = tuple[Callable[[bytes], object], Callable[[], Iterable[bytes]]]


def _picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(held, kind)
    return held.getvalue()


def _pictures() -> Iterable[bytes]:
    kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "TGA", "WEBP", "ICO")
    return [_picture(kind) for kind in kinds] + [_picture("PNG", mode) for mode in ("P", "LA", "1")]


def _read_picture(data: bytes) -> None:
    from bhvit.image import Preprocess

    Preprocess(size=(8, 8))(data)


def _archive(kind: str) -> bytes:
    held, members = io.BytesIO(), {f"{name}/{index}.png": _picture("PNG") for name in "ab" for index in range(2)}
    if kind == "zip":
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=held, mode="w") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


def _parquet() -> Iterable[bytes]:
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    rows = {"image": [{"bytes": _picture("PNG"), "path": None}] * 3, "label": [0, 1, 0]}
    pyarrow.parquet.write_table(pyarrow.table(rows), held)
    return [held.getvalue()]


def _read_dataset(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        from bhvit.data import open_dataset

        path = SCRATCH / f"source{suffix}"
        path.write_bytes(data)
        found = open_dataset(str(path), "all", warn=lambda line: None)
        for index in range(min(len(found), 8)):
            found.image(index)

    return read


def _checkpoints() -> Iterable[bytes]:
    import torch

    from bhvit.models import create_model, save_checkpoint

    path = SCRATCH / "seed.safetensors"
    model = create_model("bhvit_nano", num_classes=2, img_size=32)
    save_checkpoint(model, path)
    held = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.float16)}}, held)
    old = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    return [b"s" + path.read_bytes(), b"p" + held.getvalue(), b"p" + old.getvalue()]


def _read_checkpoint(data: bytes) -> None:
    from bhvit.models import load_checkpoint
    from bhvit.models.published.files import read_state

    path = SCRATCH / ("it.safetensors" if data[:1] == b"s" else "it.pth")
    path.write_bytes(data[1:])
    (load_checkpoint if data[:1] == b"s" else read_state)(path)


def _models() -> Iterable[bytes]:
    from bhvit.format import file as bhv_file
    from fuzz.corpus import specs
    from helpers.random_model import random_model

    return [bhv_file.to_bytes(random_model(spec)) for spec in list(specs().values())[:6]]


def _read_model(data: bytes) -> None:
    from bhvit import Session, UserError
    from bhvit.format import file as bhv_file

    at = data.find(b'"checksum":"')
    if 0 <= at < len(data) - 20:  # made right again, so that mutations reach past it
        blank = data[: at + 12] + b"00000000" + data[at + 20 :]
        data = data[: at + 12] + b"%08x" % zlib.crc32(blank) + data[at + 20 :]
    taken = []
    for reader in (Session, bhv_file.from_bytes):
        try:
            reader(data)
            taken.append(True)
        except UserError:
            taken.append(False)
    assert taken[0] == taken[1], f"the native reader takes it: {taken[0]}, Python's: {taken[1]}"


READERS: dict[str, Target] = {
    "pictures": (_read_picture, _pictures),
    "zip": (_read_dataset(".zip"), lambda: [_archive("zip")]),
    "tar": (_read_dataset(".tar"), lambda: [_archive("tar")]),
    "parquet": (_read_dataset(".parquet"), _parquet),
    "checkpoints": (_read_checkpoint, _checkpoints),
    "both-readers": (_read_model, _models),
}


def main() -> None:
    if len(sys.argv) < 3:
        print(*READERS)
        return
    import atheris

    import bhvit.data
    import bhvit.format.file
    import bhvit.image

    read, seeds = READERS[sys.argv.pop(1)]
    SCRATCH.mkdir(exist_ok=True)
    warnings.simplefilter("ignore")

    def once(data: bytes) -> Any:
        try:
            read(data)
        except bhvit.UserError:
            return

    for index, seed in enumerate(seeds()):
        (Path(sys.argv[-1]) / f"seed-{index}").write_bytes(seed)
        once(seed)  # imports what the reader needs, so that it is instrumented
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] in ("bhvit", "PIL")]:
        for thing in list(vars(module).values()):
            for function in [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]:
                if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                    atheris.instrument_func(function)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
