"""Fuzzes Python's readers with atheris: `python tests/fuzz/readers.py READER [libFuzzer's options] FOLDER`.

Without arguments it prints the readers. Whatever bytes a reader is given, it answers or raises UserError; any other
exception is a finding, and so is a packed model that one of the two readers takes and the other refuses. FOLDER gets
good inputs to start from. Needs `pip install atheris`, which has no place in the project's own extras.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import itertools
import json
import os
import sys
import tarfile
import tempfile
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bhvit.errors import UserError

SCRATCH = Path(tempfile.gettempdir()) / f"bhvit-readers-{os.getpid()}"
PACKAGES = ("bhvit", "PIL", "python_multipart")
"""Packages whose functions tell the fuzzer what they do."""
MODEL: dict[str, Any] = {}
"""A session, and a server's model, that are opened once."""
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


def _masks() -> Iterable[bytes]:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/a", "validation/b"):
            archive.writestr(f"images/{name}.png", _picture("PNG"))
            archive.writestr(f"masks/{name}.png", _picture("PNG", "P"))
        archive.writestr("classes.txt", "".join(f"{label}\n" for label in range(255)))
    return [held.getvalue()]


def _read_masks(data: bytes) -> None:
    from bhvit.data.masks import open_masked

    path = SCRATCH / "masks.zip"
    path.write_bytes(data)
    found = open_masked(str(path), "all", warn=lambda line: None)
    for index in range(min(len(found), 8)):
        found.both(index)


def _bodies() -> Iterable[bytes]:
    numbers = [0.0] * 3072
    described = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32"}
    asked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    binary = json.dumps({"inputs": [{**described, "parameters": {"binary_data_size": 12288}}], "outputs": asked})
    files = {"name": "images", "shape": [1], "datatype": "BYTES"}
    part = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + _picture("PNG")
    return [
        b"\0\0\0" + json.dumps({"id": "a", "inputs": [{**described, "data": numbers}]}).encode(),
        b"\1" + len(binary).to_bytes(2, "little") + binary.encode() + bytes(12288),
        b"\0\0\0" + json.dumps({"inputs": [{**files, "data": [base64.b64encode(_picture("PNG")).decode()]}]}).encode(),
        b"\2\0\0--x\r\n" + part + b"\r\n--x--\r\n",
        b"\3\0\0" + gzip.compress(json.dumps({"inputs": []}).encode()),
    ]


def _read_body(data: bytes) -> None:
    """Three bytes say how the rest arrives: with a header's length, as a form, compressed."""
    from starlette.requests import Request

    from bhvit import Session
    from bhvit.serve import inference
    from bhvit.serve.body import Bodies, files_of
    from bhvit.serve.limits import Limits, RequestError
    from bhvit.serve.models import Model

    kind, length, body = data[0] % 4 if data else 0, str(int.from_bytes(data[1:3], "little")), data[3:]
    limits = Limits(body=1 << 20, pixels=1 << 20, batch=4)
    model = MODEL.setdefault("model", Model("cifar10", MODEL.setdefault("session", Session("cifar10")), 1))
    given = {2: {"content-type": "multipart/form-data; boundary=x"}, 3: {"content-encoding": "gzip"}}.get(kind, {})

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def whole() -> bytes | list[bytes]:
        headers = [(name.encode(), value.encode()) for name, value in given.items()]
        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        async with Bodies(limits).reading(request, 10) as read:
            return await files_of(read, request, limits) if kind == 2 else read

    try:
        found = asyncio.run(whole())
        if isinstance(found, list):
            inference.classify(model, found, 3, limits)
        else:
            inference.infer(model, found, length if kind == 1 else None, limits)
    except RequestError:
        return


def _journals() -> Iterable[bytes]:
    records = [{"image": "a.png", "seconds": 0.5, "classes": [{"name": "cat", "probability": 0.25}]}]
    records += [{"image": "b.png", "error": "b.png is damaged"}]
    return [b"".join(json.dumps(record).encode() + b"\n" for record in records)]


def _read_journal(data: bytes) -> None:
    """What an interrupted run left, read and made into a table."""
    from bhvit.runtime.results import Results

    def row(record: Mapping[str, Any]) -> Mapping[str, Any]:
        first = record.get("classes", [{}])[0]
        return {
            "image": record["image"],
            "seconds": record.get("seconds"),
            "class": first.get("name"),
            "error": record.get("error"),
        }

    columns = {"image": str, "seconds": float, "class": str, "error": str}
    for ending in ("csv", "parquet"):
        path = SCRATCH / f"out.{ending}"
        path.with_name(f".{path.name}.journal").write_bytes(b'{"model": "a"}\n' + data)
        with Results(path, columns, row, made_by={"model": "a"}, resume=True) as results:
            results.write({"image": "c.png"})
            results.finish()
        path.unlink()


def _read_list(data: bytes) -> None:
    """Names and addresses on standard input; nothing is downloaded."""
    from bhvit.data.inputs import open_inputs
    from bhvit.data.inputs.web import WebPicture

    for picture in itertools.islice(open_inputs("-", stdin=io.BytesIO(data)), 20):
        if not isinstance(picture, WebPicture):
            with contextlib.suppress(UserError):
                picture.image()


def _read_recipe(data: bytes) -> None:
    from bhvit.train.config import TrainConfig
    from bhvit.train.recipe_files import load_recipe

    path = SCRATCH / "recipe.toml"
    path.write_bytes(data)
    TrainConfig.from_dict({"data": "digits", "model": "bhvit_nano", **load_recipe(str(path))})


def _recipes() -> Iterable[bytes]:
    import bhvit.train

    return [path.read_bytes() for path in sorted((Path(bhvit.train.__file__).parent / "recipes").glob("*.toml"))]


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
    "masks": (_read_masks, _masks),
    "bodies": (_read_body, _bodies),
    "journals": (_read_journal, _journals),
    "lists": (_read_list, lambda: [b"a.png\nhttp://a/b.png\0/tmp\n", b"x" * 300 + b"\n\xff\n"]),
    "recipes": (_read_recipe, _recipes),
    "checkpoints": (_read_checkpoint, _checkpoints),
    "both-readers": (_read_model, _models),
}


def main() -> None:
    if len(sys.argv) < 3:
        print(*READERS)
        return
    import atheris  # type: ignore[import-untyped,unused-ignore]

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
    for module in [module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES]:
        for thing in list(vars(module).values()):
            for function in [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]:
                if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                    atheris.instrument_func(function)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
