"""Preprocessing: what it computes, every kind of image, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bhvit.errors import UserError
from bhvit.image import Preprocess

RNG = np.random.default_rng(0)
NATIVE = Preprocess(size=(24, 32), crop=1.0)


def smooth(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / (5 + 3 * k) + k) * np.cos(columns / (7 + 2 * k)) for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def test_an_image_of_the_right_size_is_only_normalised():
    pixels = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    result = NATIVE(pixels)
    expected = (pixels.transpose(2, 0, 1)[None] / 255 - np.reshape(NATIVE.mean, (3, 1, 1))) / np.reshape(
        NATIVE.std, (3, 1, 1)
    )
    assert result.shape == (1, 3, 24, 32)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (224, 224), (50, 37), (333, 1000)])
def test_resizing_is_the_usual_imagenet_evaluation(shape):
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(smooth(*shape))
    usual = transforms.Compose(
        [transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    difference = np.asarray(usual(image)).astype(int) - Preprocess().pixels(image)
    assert np.abs(difference).max() <= 2  # the same arithmetic, rounded once instead of twice


def test_a_long_thin_image_needs_no_gigantic_intermediate():
    assert Preprocess().pixels(Image.new("RGB", (30_000, 1))).shape == (224, 224, 3)
    assert Preprocess().pixels(Image.new("L", (1, 30_000))).shape == (224, 224, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "La", "RGBa"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_converted(mode, channels):
    preprocess = Preprocess(size=(16, 24), channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    assert preprocess(Image.new(mode, (40, 30))).shape == (1, channels, 16, 24)


def test_palette_with_transparency_from_a_file(tmp_path):
    image = Image.fromarray(smooth(24, 32)).quantize(16)
    image.save(tmp_path / "palette.png", transparency=bytes(range(0, 160, 10)))
    assert NATIVE(tmp_path / "palette.png").shape == (1, 3, 24, 32)


def test_16_bit_greyscale_keeps_the_high_byte(tmp_path):
    deep = RNG.integers(0, 65536, (24, 32), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(NATIVE.pixels(tmp_path / "deep.png"), np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_exif_orientation_is_applied(tmp_path):
    upright = Image.fromarray(smooth(24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(NATIVE.pixels(tmp_path / "turned.png"), np.asarray(upright))


def test_arrays_grey_and_with_alpha():
    grey = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
    np.testing.assert_array_equal(NATIVE.pixels(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(NATIVE.pixels(grey[..., None]), np.repeat(grey[..., None], 3, axis=2))
    assert NATIVE.pixels(np.zeros((24, 32, 4), np.uint8)).shape == (24, 32, 3)
    five = Preprocess(size=(24, 32), channels=5, mean=(0,) * 5, std=(1,) * 5, crop=1.0)
    many = RNG.integers(0, 256, (24, 32, 5), dtype=np.uint8)
    np.testing.assert_array_equal(five.pixels(many), many)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.float32), "must be uint8"),
        (np.zeros((4,), np.uint8), r"\(H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(H, W\)"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels"),
    ],
)
def test_wrong_arrays_are_refused(image, message):
    with pytest.raises(UserError, match=message):
        NATIVE(image)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(smooth(200, 200)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "short.jpg").write_bytes(data[: len(data) // 2])
    for name in ["text.jpg", "empty.png", "short.jpg", "absent.jpg", "."]:
        with pytest.raises(UserError) as caught:
            NATIVE(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_json_round_trip_and_damage():
    preprocess = Preprocess(size=(8, 16), channels=1, mean=(0.5,), std=(0.25,), crop=0.9, interpolation="bilinear")
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
    for text in ["", "[]", "{}", '{"size": 3}', preprocess.to_json().replace("8", "-8"), "[" * 100_000]:
        with pytest.raises(UserError, match="damaged"):
            Preprocess.from_json(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (0, 4)},
        {"size": (4,)},
        {"size": 224},
        {"size": None},
        {"mean": 0.5},
        {"channels": 1},
        {"std": (0, 1, 1)},
        {"mean": (float("nan"), 0, 0)},
        {"crop": 0},
        {"crop": 1.5},
        {"interpolation": "cubist"},
    ],
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(UserError):
        Preprocess(**settings)
