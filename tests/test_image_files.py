"""One picture, several readings; and files that are no pictures, or too large."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import image as image_module
from bhvit.data.dataset import open_dataset
from bhvit.errors import UserError
from bhvit.image import Preprocess, load_image
from helpers.images import png, tar

NATIVE = Preprocess(size=(6, 8), crop=1.0)


def _gradient(dtype: Any, high: float) -> Any:
    return (np.arange(48).reshape(6, 8) * high / 47).astype(dtype)


def _saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def _oriented(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return _saved(Image.fromarray(np.dstack([_gradient(np.uint8, 255)] * 3)), path, exif=exif)


def _palette(path: Path) -> Path:
    return _saved(Image.fromarray(_gradient(np.uint8, 255)).convert("P"), path, transparency=3)


PICTURES = {
    "orientation.jpg": _oriented,
    "palette with transparency.png": _palette,
    "16 bits.png": lambda path: _saved(Image.fromarray(_gradient(np.uint16, 65535)), path),
    "16 bits.tif": lambda path: _saved(Image.fromarray(_gradient(np.uint16, 65535)), path),
    "32 bits.tif": lambda path: _saved(Image.fromarray(_gradient(np.int32, 2**31 - 1)), path),
    "unit floats.tif": lambda path: _saved(Image.fromarray(_gradient(np.float32, 1)), path),
    "byte floats.tif": lambda path: _saved(Image.fromarray(_gradient(np.float32, 255)), path),
    "alpha.png": lambda path: _saved(Image.fromarray(_gradient(np.uint8, 255)).convert("LA"), path),
    "cmyk.jpg": lambda path: _saved(Image.fromarray(_gradient(np.uint8, 255)).convert("CMYK"), path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_the_same_pixels_however_it_is_given(tmp_path: Path, name: str) -> None:
    path = PICTURES[name](tmp_path / name)
    data = path.read_bytes()
    expected = NATIVE.pixels(path)
    assert len(np.unique(expected)) > 8, "a picture of one shade would prove nothing"
    readings = {"str": str(path), "bytes": data, "PIL": Image.open(path), "PIL of bytes": Image.open(io.BytesIO(data))}
    for what, given in readings.items():
        np.testing.assert_array_equal(NATIVE.pixels(given), expected, err_msg=what)
    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        shutil.copy(path, tmp_path / "set" / kind)
    shard = tar(tmp_path / "a.tar", {f"0{path.suffix}": data, "0.cls": b"0", f"1{path.suffix}": data, "1.cls": b"1"})
    for source in (tmp_path / "set", shard):
        if path.suffix == ".tif" and source == shard:
            continue
        np.testing.assert_array_equal(NATIVE.pixels(open_dataset(source, "all").image(0)), expected)


def test_parquet_holds_the_same_pixels(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = _oriented(tmp_path / "a.jpg")
    images = [{"bytes": path.read_bytes(), "path": None}] * 2
    pyarrow.parquet.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / "a.parquet")
    stored = open_dataset(tmp_path / "a.parquet", "all").image(0)
    np.testing.assert_array_equal(NATIVE.pixels(stored), NATIVE.pixels(path))


@pytest.mark.parametrize(
    ("values", "shades"),
    [
        (_gradient(np.uint16, 65535), _gradient(np.uint16, 65535) >> 8),
        (_gradient(np.int32, 2**31 - 1), _gradient(np.int32, 2**31 - 1) >> 24),
        (_gradient(np.float32, 1), np.rint(_gradient(np.float32, 1) * 255)),
        (_gradient(np.float32, 255), np.rint(_gradient(np.float32, 255))),
    ],
    ids=["16 bits", "32 bits", "unit floats", "byte floats"],
)
def test_pixels_of_more_bits_keep_their_range(values: Any, shades: Any) -> None:
    np.testing.assert_array_equal(NATIVE.pixels(Image.fromarray(values))[..., 0], shades.astype(np.uint8))


@pytest.mark.parametrize("values", [_gradient(np.float32, 4000), _gradient(np.float32, -1), _gradient(np.int32, -9)])
def test_pixels_without_a_scale_are_refused(values: Any) -> None:
    with pytest.raises(UserError, match="scale them"):
        NATIVE.pixels(Image.fromarray(values))


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    paths = []
    for index in range(40):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(png(index))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(load_image, paths))
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), Path("/dev/null")):
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with pytest.raises(UserError, match="is a pipe or device"):
                load_image(path)


def test_a_page_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="is not an image, or is of a format that is not read"):
        load_image(path)


@pytest.mark.skipif(image_module.importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif reads it")
def test_a_heic_file_names_the_package_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for given in (path, path.read_bytes()):
        with pytest.raises(UserError, match="a HEIC file: `pip install pillow-heif`"):
            load_image(given)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _saved(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    assert path.stat().st_size < 1 << 20
    for given in (path, path.read_bytes()):
        with pytest.raises(UserError, match=r"too many pixels .*BHVIT_MAX_PIXELS allows more"):
            load_image(given)
    small = _saved(Image.new("L", (300, 200)), tmp_path / "small.png")
    monkeypatch.setattr(image_module, "MAX_PIXELS", 50_000)
    with pytest.raises(UserError, match=r"small\.png has 300x200 pixels.* BHVIT_MAX_PIXELS=60000"):
        load_image(small)


def test_the_limits_are_read_from_the_environment() -> None:
    import subprocess

    code = "from bhvit import image; from bhvit.data import stores; print(image.MAX_PIXELS, stores.MAX_FILE_BYTES)"
    environment = {**os.environ, "BHVIT_MAX_PIXELS": "7", "BHVIT_MAX_FILE_BYTES": "9"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split() == ["7", "9"]
