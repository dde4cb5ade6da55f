"""Label maps of pictures of unusual sizes and names: files that formats and file systems take."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from bhvit.runtime import label_maps
from helpers.images import png
from helpers.random_model import random_model
from helpers.small_specs import LABELS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.bhv"
    bhv_file.write(random_model(LABELS), path)
    return path


def test_an_overlay_that_no_jpeg_holds_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (65_501, 1)).save(tmp_path / "wide.png")
    assert main(["segment", str(model), str(tmp_path / "wide.png"), "--out", str(tmp_path / "out")]) == 2
    assert "65501x1 pixels is too long for a JPEG file" in capsys.readouterr().err


def test_long_names_get_results_of_their_own(model: Path, tmp_path: Path) -> None:
    names = ["a" * 300 + "b.png", "a" * 300 + "c.png", "é" * 200 + ".png", "x.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            archive.writestr(name, png(1))
    out = tmp_path / "out"
    assert main(["segment", str(model), str(tmp_path / "set.zip"), "--out", str(out)]) == 0
    assert len(list(out.glob("*.overlay.jpg"))) == len(list(out.glob("*.png"))) == len(names)
    assert main(["segment", str(model), str(tmp_path / "set.zip"), "--out", str(out), "--resume"]) == 0
    assert len(list(out.iterdir())) == 2 * len(names)


@pytest.mark.parametrize(("height", "width", "overlap"), [(7, 9, 0.25), (4, 6, 0.0), (23, 17, 0.6), (40, 6, 0.9)])
def test_windows_add_up_as_over_the_whole_picture(height: int, width: int, overlap: float) -> None:
    window, classes, rng = (4, 6), 3, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    weights = rng.standard_normal((classes, 3)).astype(np.float32)

    def run(part: label_maps.Labels) -> np.ndarray:
        return weights @ part.reshape(-1, 3).T.astype(np.float32).reshape(3, -1) @ mixed

    mixed = rng.standard_normal((24, 24)).astype(np.float32)
    total = np.zeros((classes, height, width), np.float32)
    for top in label_maps.starts(height, window[0], overlap):
        for left in label_maps.starts(width, window[1], overlap):
            part = np.s_[top : top + window[0], left : left + window[1]]
            total[:, part[0], part[1]] += run(pixels[part]).reshape(classes, *window)
    found = label_maps.covered(pixels, window, overlap, classes, lambda part: run(part).reshape(classes, *window))
    np.testing.assert_array_equal(found, total.argmax(axis=0))


def test_windows_hold_the_logits_of_a_band_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_maps, "MAX_WINDOW_FLOATS", 3 * 4 * 100)
    monkeypatch.setattr(label_maps, "MAX_LABELS", 50_000)
    label_maps.check_size((500, 100), (4, 6), 3)  # far more logits than that in all
    for size in ((4, 101), (501, 100)):
        with pytest.raises(UserError, match="is too large for windows"):
            label_maps.check_size(size, (4, 6), 3)


def test_what_stands_where_a_label_map_would_be_starts_no_program(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import EpsImagePlugin

    (tmp_path / "x.png").write_bytes(png(1))
    (tmp_path / "out").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "out" / "x.png", "EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was started"))
    words = ["segment", str(model), str(tmp_path / "x.png"), "--out", str(tmp_path / "out"), "--resume"]
    assert main(words) == 2
    assert "was made by another model" in capsys.readouterr().err


def test_a_resumed_run_keeps_no_label_map_of_another_image(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(png(1))
    options = ["--out", str(tmp_path / "out"), "--resume"]
    for _ in range(2):
        assert main(["segment", str(model), str(tmp_path / "a"), *options]) == 0
    assert main(["segment", str(model), str(tmp_path / "b"), *options]) == 2
    assert f"or of another image than {tmp_path / 'b' / 'x.png'}" in capsys.readouterr().err


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.99])
@pytest.mark.parametrize("window", [1, 16, 40])
def test_windows_cover_every_pixel_and_overlap_as_asked(window: int, overlap: float) -> None:
    step = max(1, int(window * (1 - overlap)))
    for edge in range(window, 5 * window + 3):
        found = label_maps.starts(edge, window, overlap)
        assert (found[0], found[-1]) == (0, edge - window)
        assert all(0 < after - before <= step for before, after in zip(found, found[1:]))
        assert (len(found) - 2) * step < edge - window or len(found) == 1  # no window more than that takes
