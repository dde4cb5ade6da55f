"""JPEG files decoded at a fraction of their size: the same for every way to a picture, and only where asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit.data.inputs import open_inputs
from bhvit.data.metrics import decode
from bhvit.decode import load_image
from bhvit.errors import UserError
from bhvit.image import Preprocess
from helpers.images import tar


def photo(width: int, height: int, *, orientation: int = 1, form: str = "JPEG") -> bytes:
    """A smooth picture, as photographs are, with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 37), np.cos(y / 23), np.sin((x + y) / 51)], axis=2)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    image = Image.fromarray(np.clip(128 + 90 * waves + noise, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, form, exif=exif, quality=90)
    return file.getvalue()


FULL, DRAFT = Preprocess(size=(64, 64), crop=1.0), Preprocess(size=(64, 64), crop=1.0, draft=1)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("draft", "edge"), [(0, 600), (1, 75), (1.25, 150), (2, 150), (4, 300), (16, 600)])
def test_the_scale_is_the_smallest_that_suffices(draft: float, edge: int, orientation: int) -> None:
    settings = Preprocess(size=(64, 64), crop=1.0, draft=draft)
    image = load_image(photo(800, 600, orientation=orientation), needed=settings.needed)
    assert min(image.size) == edge
    assert (image.width < image.height) == (orientation == 6)


def test_each_edge_is_looked_at_on_its_own() -> None:
    settings = Preprocess(size=(32, 96), crop=1.0, draft=1)
    assert load_image(photo(800, 240), needed=settings.needed).size == (200, 60)
    assert load_image(photo(240, 800, orientation=6), needed=settings.needed).size == (200, 60)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(form: str) -> None:
    data = photo(800, 600, form=form)
    np.testing.assert_array_equal(DRAFT.pixels(data), FULL.pixels(data))


def test_every_way_to_a_file_gives_the_same_pixels(tmp_path: Path) -> None:
    data = photo(800, 600)
    (tmp_path / "a.jpg").write_bytes(data)
    tar(tmp_path / "a.tar", {"a.jpg": data})
    expected = DRAFT.pixels(data)
    assert not np.array_equal(expected, FULL.pixels(data))
    np.testing.assert_array_equal(DRAFT.pixels(tmp_path / "a.jpg"), expected)
    for source in ("a.jpg", "a.tar"):
        (picture,) = open_inputs(tmp_path / source)
        np.testing.assert_array_equal(DRAFT.pixels(picture.image(DRAFT.needed)), expected)
    from bhvit.data.dataset import open_dataset

    for kind in ("cat", "dog"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "a.jpg").write_bytes(data)
    dataset = open_dataset(tmp_path / "set", "all")
    np.testing.assert_array_equal(decode(dataset, DRAFT, [0])[0], expected)


def test_pixels_differ_little() -> None:
    data = photo(1600, 1200)
    full = FULL.pixels(data).astype(int)
    for draft, most in ((1, 4.0), (2, 1.0)):
        reduced = Preprocess(size=(64, 64), crop=1.0, draft=draft).pixels(data)
        assert np.abs(reduced - full).mean() < most


def test_files_without_it_are_as_they_were() -> None:
    assert "draft" not in json.loads(FULL.to_json())
    assert Preprocess.from_json(FULL.to_json()) == FULL
    assert json.loads(DRAFT.to_json())["draft"] == 1
    assert Preprocess.from_json(DRAFT.to_json()) == DRAFT
    assert FULL.needed is None


@pytest.mark.parametrize("draft", [-1, 0.5, 17, True, "2", float("nan"), None])
def test_what_means_nothing_is_refused(draft: object) -> None:
    with pytest.raises(UserError, match="draft must be 0 or from 1 to 16"):
        Preprocess(draft=draft)  # type: ignore[arg-type]
