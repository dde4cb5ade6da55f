"""The static site that `bhvit web` writes, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit.bundled import FOLDER
from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.web import single_file, site
from helpers import small_specs
from helpers.random_model import random_model

MODEL = FOLDER / "cifar10.bhv"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the place of the built npm package."""
    folder = tmp_path / "library"
    folder.mkdir()
    for name in (*site._NEEDED, "index.d.ts"):
        (folder / name).write_text(name)
    monkeypatch.setattr(site, "_PLACES", (folder,))
    return folder


def test_site_lists_all_its_files(tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    assert main(["web", "cifar10", "--out", str(out)]) == 0
    assert "python -m http.server" in capsys.readouterr().out
    listed = json.loads((out / "files.json").read_text())
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(listed) == there - {"_headers"} | {"./"}  # a host that reads these does not serve them
    assert "\n  Cross-Origin-Embedder-Policy: require-corp\n" in (out / "_headers").read_text()
    assert not any(name.endswith(".d.ts") for name in there)
    (model,) = json.loads((out / "models.json").read_text())
    assert (out / model["file"]).read_bytes() == MODEL.read_bytes()
    assert model["name"] == "cifar10"
    assert "airplane" in model["classes"]


def test_site_asks_nobody_else(tmp_path: Path, library: Path) -> None:
    """No address of another host, no script or style within the page, and a policy that forbids both."""
    out = tmp_path / "site"
    site.write_site([MODEL], out)
    page = (out / "index.html").read_text()
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    assert "<style" not in page
    assert " style=" not in page
    for name in ("index.html", "app.js", "draw.js", "style.css", "sw.js"):
        text = (out / name).read_text().replace("http://www.w3.org", "")
        assert "://" not in text, name


def test_folder_with_files_is_kept(tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("mine")
    assert main(["web", "cifar10", "--out", str(tmp_path / "site")]) == 2
    assert "is not empty; --force writes into it" in capsys.readouterr().err
    assert main(["web", "cifar10", "--out", str(tmp_path / "site"), "--force"]) == 0
    assert (tmp_path / "site" / "mine.txt").read_text() == "mine"


def test_file_in_the_place_of_the_folder(tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site").write_text("mine")
    assert main(["web", "cifar10", "--out", str(tmp_path / "site")]) == 2
    assert "is a file; --out names a folder" in capsys.readouterr().err


def test_nothing_is_written_for_a_damaged_model(tmp_path: Path, library: Path) -> None:
    damaged = tmp_path / "damaged.bhv"
    damaged.write_bytes(MODEL.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        site.write_site([MODEL, damaged], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_models_that_label_pixels_are_taken(tmp_path: Path, library: Path) -> None:
    spec = next(spec for spec in small_specs.SPECS if spec.task == "segment")
    bhv_file.write(random_model(spec), tmp_path / "labels.bhv")
    site.write_site([tmp_path / "labels.bhv"], tmp_path / "site")
    (model,) = json.loads((tmp_path / "site" / "models.json").read_text())
    assert model["name"] == "labels"


def test_examples_are_the_first_of_each_class(tmp_path: Path, library: Path) -> None:
    photos = tmp_path / "photos"
    for name, count in (("<b>cat", 5), ("dog", 1), ("empty", 0)):
        (photos / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (1000, 500), (i, 0, 0)).save(photos / name / f"{i}.png")
    (photos / "dog" / "0.txt").write_text("no picture")
    (photos / "stray.png").write_bytes((photos / "dog" / "0.png").read_bytes())
    out = tmp_path / "site"
    assert main(["web", "cifar10", "--out", str(out), "--examples", str(photos)]) == 0
    groups = json.loads((out / "examples.json").read_text())
    assert [(group["name"], len(group["files"])) for group in groups] == [("<b>cat", 3), ("dog", 1)]
    assert set(json.loads((out / "files.json").read_text())) >= {path for group in groups for path in group["files"]}
    with Image.open(out / groups[0]["files"][0]) as image:
        assert (image.format, image.size) == ("JPEG", (320, 160))


@pytest.mark.parametrize(("given", "said"), [("none", "is not a folder"), ("", "has no pictures in folders")])
def test_examples_that_cannot_be_read(
    tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.txt").write_text("no picture")
    assert (
        main(["web", "cifar10", "--out", str(tmp_path / "site"), "--examples", str(tmp_path / "photos" / given)]) == 2
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_examples_of_every_mode_are_pictures_of_rgb(
    tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures that Pillow decodes to other modes than RGB show what the model would see of them."""
    photos, shades = tmp_path / "photos", np.linspace(0, 255, 40 * 30, dtype=np.uint8).reshape(30, 40)
    colours = Image.fromarray(np.dstack([shades, shades[::-1], np.tile(shades[-1], (30, 1))]))
    alpha = Image.fromarray(np.full((30, 40), 128, np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "grey.png": (Image.fromarray(shades), {}),
        "grey-alpha.png": (Image.merge("LA", [Image.fromarray(shades), alpha]), {}),
        "rgba.png": (Image.merge("RGBA", [*colours.split(), alpha]), {}),
        "palette.png": (colours.quantize(16), {"transparency": 3}),
        "deep.png": (Image.fromarray(shades.astype(np.uint16) << 8), {}),
        "bits.png": (Image.fromarray(shades).convert("1"), {}),
        "turned.jpg": (colours, {"exif": turned}),
        "lab.tif": (colours.convert("RGB"), {}),
    }
    for name, (image, options) in pictures.items():
        (photos / name).mkdir(parents=True)
        image.save(photos / name / name, **options)
    (photos / "floats").mkdir()
    Image.fromarray(np.full((30, 40), 4e9, np.float32)).save(photos / "floats" / "floats.tif")
    (photos / "raw").mkdir()
    (photos / "raw" / "a.cr2").write_bytes(b"raw")
    out = tmp_path / "site"
    assert main(["web", "cifar10", "--out", str(out), "--examples", str(photos)]) == 0
    said = capsys.readouterr().err
    assert f"bhvit: skipped: {photos / 'floats' / 'floats.tif'} has floats from 4e+09" in said
    assert f"bhvit: skipped: {photos / 'raw' / 'a.cr2'} is not an image" in said
    groups = {group["name"]: group["files"] for group in json.loads((out / "examples.json").read_text())}
    assert groups.keys() == pictures.keys()
    for name, files in groups.items():
        with Image.open(out / files[0]) as image:
            assert (image.mode, image.format) == ("RGB", "JPEG")
            assert image.size == ((30, 40) if name == "turned.jpg" else (40, 30))
            wanted = Preprocess(size=image.size[::-1], crop=1.0).pixels(photos / name / name)
            assert np.abs(np.asarray(image, np.int64) - wanted).mean() < 8, name  # a JPEG of the same picture


def test_two_models_of_one_name(tmp_path: Path, library: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cifar10.bhv").write_bytes(MODEL.read_bytes())
    with pytest.raises(UserError, match=r"two models are called cifar10\.bhv"):
        site.write_site([MODEL, tmp_path / "other" / "cifar10.bhv"], tmp_path / "site")


@pytest.fixture
def scripts(library: Path) -> Path:
    """The same with the scripts that a single file is made of."""
    for name in ("errors", "imports", "occlusion", "pixels", "native", "module", "threads", "runners"):
        (library / f"{name}.js").write_text(f'import {{ a }} from "./a.js";\nexport const {name}_ = 1;\nexport {{}};\n')
    return library


@pytest.mark.parametrize("name", ["page.html", "page.htm", "PAGE.HTML", "a page.Htm"])
def test_an_ending_of_pages_is_a_single_file(
    name: str, tmp_path: Path, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / name
    assert main(["web", "cifar10", "--out", str(page)]) == 0
    assert capsys.readouterr().out.startswith(f"{page}: ")
    assert page.read_text().startswith("<!doctype html>")
    page.write_text("mine")
    assert main(["web", "cifar10", "--out", str(page)]) == 2
    assert "--force" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert main(["web", "cifar10", "--out", str(page), "--force"]) == 0
    assert page.read_text() != "mine"


def test_a_folder_with_the_ending_of_a_page_is_refused(
    tmp_path: Path, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.htm").mkdir()
    assert main(["web", "cifar10", "--out", str(tmp_path / "site.htm"), "--force"]) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_a_single_file_holds_all_it_needs(scripts: Path) -> None:
    page = single_file(site.site_files([MODEL]))
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    script = page.split('<script type="module">')[1].split("</script>")[0]
    assert "import {" not in script
    assert "\nexport " not in script
    assert "const errors_ = 1;" in script
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{sha}' 'wasm-unsafe-eval'" in page
    embedded = json.loads(page.split('id="embedded">')[1].split("</script>")[0])
    assert set(embedded) == {"lib/bhvit.wasm", "models/cifar10.bhv", "models.json", "examples.json"}
    assert base64.b64decode(embedded["models/cifar10.bhv"]) == MODEL.read_bytes()


def test_engine_that_is_not_built_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "_PLACES", (tmp_path,))
    with pytest.raises(UserError, match="run `make web` in a checkout"):
        site.write_site([MODEL], tmp_path / "site")
