"""The example programs in C, compiled with the installed library, answer as Python does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit import Session
from bhvit.cli.main import main
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.c_library import CMAKE, ROOT, SPEC, call
from helpers.random_model import random_model


@pytest.fixture(scope="session")
def example(prefix: Path) -> Path:
    assert CMAKE is not None  # or `prefix` would have skipped
    build = prefix.parent / "example"
    flags = "-std=c99 -pedantic -Wall -Wextra -Werror"
    call(CMAKE, "-S", ROOT / "examples", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_C_FLAGS={flags}")
    call(CMAKE, "--build", build)
    return build / "classify"


@pytest.mark.parametrize(("crop", "size"), [(1.0, (8, 12)), (0.875, (9, 13)), (0.875, (9, 22))])
def test_the_example_answers_as_classify(
    example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], crop: float, size: tuple[int, int]
) -> None:
    model, best = random_model(SPEC), set()
    usual = Preprocess(size=SPEC.img_size, crop=crop)
    file = tmp_path / "model.bhv"
    bhv_file.write(bhv_file.PackedModel(**{**vars(model), "preprocess": usual}), file)
    for seed in range(8):
        picture = tmp_path / f"{seed}.ppm"
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)) // (seed + 1)
        Image.fromarray(pixels.astype(np.uint8)).save(picture)
        assert main(["classify", str(file), str(picture), "--top", "1", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)[0]["classes"][0]
        assert call(example, file, picture) == f"{100 * answer['probability']:.1f} %  {answer['name']}\n"
        best.add(answer["name"])
    assert len(best) > 1  # or the same answer would prove nothing


def test_the_example_says_what_is_wrong_with_a_picture(example: Path, path: Path, tmp_path: Path) -> None:
    (tmp_path / "b.ppm").write_bytes(b"P6 12 8 255\n" + bytes(100))
    (tmp_path / "c.ppm").write_bytes(b"P6 # a comment that does not end")
    (tmp_path / "f.ppm").write_bytes(b"P6 12 8 65535\n" + bytes(576))
    (tmp_path / "d.ppm").write_bytes(b"P5 12 8 255\n" + bytes(288))
    for name, said in (
        ("b", "cut short"),
        ("c", "the header has no size"),
        ("f", "not 8 bits a channel"),
        ("d", "P6"),
        ("e", "cannot read"),
    ):
        picture = str(tmp_path / f"{name}.ppm")
        done = subprocess.run([example, path, picture], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_the_example_labels_pixels_as_python_does(example: Path, path: Path, tmp_path: Path) -> None:
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    spec = ModelSpec(name="labels", img_size=(8, 12), patch=4, num_classes=3, task="segment", stages=(stage,))
    model, picture, labels = tmp_path / "labels.bhv", tmp_path / "picture.ppm", tmp_path / "labels.pgm"
    packed = random_model(spec)
    names = ("class \x1b[2J", *packed.class_names[1:])  # a file may clear the terminal
    bhv_file.write(bhv_file.PackedModel(**{**vars(packed), "class_names": names}), model)
    for size in ((8, 12), (37, 51), (5, 3)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        picture.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % size[::-1] + pixels.tobytes())
        said = call(example.with_name("segment"), model, picture, labels)
        assert "%  class " in said
        assert "\x1b" not in said
        with Session(model) as session, Image.open(labels) as written:
            np.testing.assert_array_equal(np.asarray(written), session.segment(picture))
    done = subprocess.run([example, model, picture], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the model labels pixels; see segment.c" in done.stderr
    for words, message in (
        ([path, picture, labels], "the model classifies"),
        ([model, path, labels], "not a binary PPM"),
        ([tmp_path / "none.bhv", picture, labels], "cannot read"),
    ):
        done = subprocess.run([example.with_name("segment"), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert message in done.stderr
