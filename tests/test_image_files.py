"""One picture, several readings; and files that are no pictures, or too large."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit import decode
from bhvit.data.dataset import open_dataset
from bhvit.decode import load_image
from bhvit.errors import UserError
from bhvit.image import Preprocess
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
    readings: dict[str, Any] = {
        "str": str(path),
        "bytes": data,
        "PIL": Image.open(path),
        "PIL of bytes": Image.open(io.BytesIO(data)),
    }
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


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for source in (tmp_path / "a.png", io.BytesIO()):
        with pytest.raises(UserError, match="is not an image but an empty file: copy or download it again"):
            load_image(source)


def test_a_page_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="is not an image, or is of a format that is not read"):
        load_image(path)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif reads it")
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
    monkeypatch.setattr(decode, "MAX_PIXELS", 50_000)
    with pytest.raises(UserError, match=r"small\.png has 300x200 pixels.* BHVIT_MAX_PIXELS=60000"):
        load_image(small)


def _icon(*pictures: bytes) -> bytes:
    """An ICO file of pictures that it calls small."""
    head = struct.pack("<HHH", 0, 1, len(pictures))
    offset = len(head) + 16 * len(pictures)
    for picture in pictures:
        head += struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), offset)
        offset += len(picture)
    return head + b"".join(pictures)


def _bitmap(width: int, height: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGBA", (width, height)).save(held, "BMP")
    data = bytearray(held.getvalue()[14:])
    struct.pack_into("<i", data, 8, 2 * height)
    return bytes(data)


def test_icons_are_looked_at_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes an icon while it opens the file, and believes the picture inside, not the file's own list."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 10_000)
    small, large = (_saved(Image.new("L", (edge, edge)), tmp_path / f"{edge}.png").read_bytes() for edge in (64, 300))
    assert load_image(_icon(small)).size == (64, 64)
    assert load_image(_icon(_bitmap(48, 32))).size == (48, 32)
    too_large = [_icon(large), _icon(small, large), _icon(_bitmap(300, 300))]
    loaded: list[object] = []
    monkeypatch.setattr(Image.Image, "load", lambda image: loaded.append(image))
    for data in too_large:
        (tmp_path / "a.ico").write_bytes(data)
        for given in (data, tmp_path / "a.ico"):
            with pytest.raises(UserError, match="300x300 pixels, more than the 10000"):
                load_image(given)
    with pytest.raises(UserError, match="holds 33 icons, more than the 32"):
        load_image(_icon(*[small] * 33))
    for cut in range(6, 50, 3):
        with pytest.raises(UserError):
            load_image(_icon(small)[:cut])
    assert loaded == []


def test_the_limits_are_read_from_the_environment() -> None:
    import subprocess

    code = "from bhvit import decode; from bhvit.data import stores; print(decode.MAX_PIXELS, stores.MAX_FILE_BYTES)"
    environment = {**os.environ, "BHVIT_MAX_PIXELS": "7", "BHVIT_MAX_FILE_BYTES": "9"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split() == ["7", "9"]


@pytest.mark.parametrize("value", ["many", "-5", "1e9", "0"])
def test_the_limits_must_be_numbers(value: str) -> None:
    import subprocess

    run = [sys.executable, "-m", "bhvit", "info", "cifar10"]
    result = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "BHVIT_MAX_PIXELS": value})
    message = f"the environment variable BHVIT_MAX_PIXELS must be a whole number from 1 on, not '{value}'"
    assert (result.returncode, result.stderr) == (2, f"bhvit: {message}\n")


def test_bytes_of_any_kind_are_an_image() -> None:
    data = png(3)
    expected = NATIVE.pixels(data)
    for given in (bytearray(data), memoryview(data), io.BytesIO(data)):
        np.testing.assert_array_equal(NATIVE.pixels(given), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "an image is a path, .* not None"),
        (3.5, "an image is a path, .* not 3.5"),
        ([1, 2], r"an image is a path, .* not \[1, 2\]"),
        ("", "the path of the image is empty"),
        ("x" * 100_000, "^cannot read x{200}…x{200}: File name too long$"),
        ("no\0name", "embedded null byte"),
        (b"x" * 100_000, "^an image of 100000 bytes is not an image"),
    ],
)
def test_what_is_no_image_is_refused_in_a_short_line(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        NATIVE(given)
    assert len(str(caught.value)) < 500


def test_a_pil_image_that_is_cut_short_or_closed_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(file, "JPEG")
    with pytest.raises(UserError, match="the image cannot be decoded: image file is truncated"):
        NATIVE(Image.open(io.BytesIO(file.getvalue()[:3000])))
    closed = Image.open(io.BytesIO(file.getvalue()))
    closed.close()
    with pytest.raises(UserError, match="the image cannot be decoded"):
        NATIVE(closed)


def test_integers_of_eight_bits_in_a_wide_mode_keep_their_value() -> None:
    shades = _gradient(np.uint8, 255)
    np.testing.assert_array_equal(NATIVE.pixels(Image.fromarray(shades).convert("I"))[..., 0], shades)


def test_a_dark_16_bit_png_stays_dark(tmp_path: Path) -> None:
    path = _saved(Image.fromarray(_gradient(np.uint16, 200)), tmp_path / "dark.png")
    assert NATIVE.pixels(path).max() == 0


def test_parts_of_a_picture_share_the_range_of_the_whole(tmp_path: Path) -> None:
    values = np.zeros((8, 16), np.float32)
    values[:, :8], values[:, 8:] = 1, 200
    path = _saved(Image.fromarray(values), tmp_path / "a.tif")
    part = Preprocess(size=(8, 8)).stretched(load_image(path), (0, 0, 8, 8))
    assert np.unique(part).tolist() == [1]


def test_a_picture_without_a_scale_is_one_skipped_image(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.png").write_bytes(png(0))
    _saved(Image.fromarray(_gradient(np.float32, 4000)), tmp_path / "cat" / "1.tif")
    _saved(Image.fromarray(_gradient(np.int32, -9)), tmp_path / "dog" / "1.tif")
    said: list[str] = []
    dataset = open_dataset(tmp_path, "all", warn=said.append)
    assert len(dataset) == 2
    assert "1.tif has floats from 0 to 4000 as pixels" in said[0]
    assert "1.tif has integers from -9 to 0 as pixels" in said[1]


def test_bgr_arrays_are_what_opencv_reads() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(NATIVE(rgb[..., ::-1], bgr=True), NATIVE(rgb))
    rgba = np.dstack([rgb, np.full((6, 8), 255, np.uint8)])
    np.testing.assert_array_equal(NATIVE.pixels(rgba[..., [2, 1, 0, 3]], bgr=True), rgb)
    for given in (Image.fromarray(rgb), rgb[..., 0], png(0)):
        with pytest.raises(UserError, match="bgr is for arrays"):
            NATIVE(given, bgr=True)
