"""Label maps of pictures of unusual sizes and names: files that formats and file systems take."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from bhvit.cli.main import main
from bhvit.format import file as bhv_file
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
