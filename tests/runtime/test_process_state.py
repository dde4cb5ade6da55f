"""Work in threads leaves the state of the process as it was: filters of warnings, signals, limits, random numbers."""

from __future__ import annotations

import ast
import locale
import os
import random
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import bhvit
from bhvit import Session
from bhvit.data.dataset import open_dataset
from bhvit.data.masks import open_masked
from helpers.masked_images import make


def _state() -> dict[str, Any]:
    """What all threads of a process share, and a library may change."""
    return {
        "filters": list(warnings.filters),
        "warn": warnings.warn,
        "show": warnings.showwarning,
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "pixels": Image.MAX_IMAGE_PIXELS,
        "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
        "NumPy": (np.geterr(), repr(np.get_printoptions()), np.random.get_state()[1].tolist()),  # type: ignore[index]  # noqa: NPY002
        "random": random.getstate(),
    }


def _jpeg_with_damaged_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(path, "JPEG", exif=block[:14] + b"\xff\xff" + block[16:])


def _palette_with_transparency(path: Path) -> None:
    image = Image.new("P", (40, 30), 1)
    image.putpalette(bytes(range(30)) * 3)
    image.save(path, "PNG", transparency=bytes([0, 128, 255]))


def _without_scale(path: Path) -> None:
    Image.fromarray(np.full((30, 40), 4e9, np.float32)).save(path, "TIFF")


def _cut_short(path: Path) -> None:
    _palette_with_transparency(path)
    path.write_bytes(path.read_bytes()[:60])


_PICTURES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("exif.jpg", _jpeg_with_damaged_exif),
    ("palette.png", _palette_with_transparency),
    ("scale.tif", _without_scale),
    ("cut.png", _cut_short),
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two class folders of pictures that Pillow warns of or that cannot be read, and of ordinary ones."""
    for kind in ("cat", "dog"):
        folder = tmp_path / "photos" / kind
        folder.mkdir(parents=True)
        for name, write in _PICTURES:
            for number in range(3):
                write(folder / f"{number}-{name}")
        for number in range(4):
            Image.new("RGB", (40, 30), (number, 90, 9)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def _stream(photos: Path) -> int:
    return sum(1 for _ in Session("cifar10").stream(photos, workers=4))


def _classify_in_threads(photos: Path) -> int:
    session = Session("cifar10", threads=2)
    with ThreadPoolExecutor(4) as pool:
        return len(list(pool.map(session.classify, sorted(photos.rglob("?.png")))))


def _check_images(photos: Path) -> int:
    return len(open_dataset(photos, "all", warn=lambda line: None))


def _check_masks(photos: Path) -> int:
    return len(open_masked(make(photos.parent / "streets", count=6), "train", warn=lambda line: None))


WORK = {
    "a stream with four workers": _stream,
    "one session in four threads": _classify_in_threads,
    "looking for damaged images": _check_images,
    "looking at all masks": _check_masks,
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_work_in_threads_leaves_the_process_as_it_was(work: Callable[[Path], int], photos: Path) -> None:
    before = _state()
    assert work(photos) > 0
    after = _state()
    assert {name: value for name, value in after.items() if value != before[name]} == {}
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


def test_the_filters_of_the_caller_hold_while_threads_decode(photos: Path) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        stream = Session("cifar10").stream(photos, workers=4)
        for index, _ in enumerate(stream):
            warnings.warn(f"answer {index}", UserWarning, stacklevel=1)
    assert [str(one.message) for one in heard if one.category is UserWarning] == [f"answer {n}" for n in range(32)]


def test_filters_are_changed_where_threads_are_known_of() -> None:
    """Two places may: decoding, which counts its readers, and the wrapping for several processes, once, at "
    "the start."""
    changing = {"catch_warnings", "simplefilter", "filterwarnings", "resetwarnings"}
    found = set()
    root = Path(bhvit.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in changing:
                found.add(path.relative_to(root).as_posix())
    assert found == {"decode.py", "train/distributed.py"}
