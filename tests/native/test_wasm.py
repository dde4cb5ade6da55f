"""The C library in WebAssembly: its example's answers and its logits against Python's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit import Session
from bhvit.bundled import FOLDER
from bhvit.cli.main import main
from bhvit.format import file as bhv_file
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.c_library import CMAKE, ROOT, call
from helpers.random_model import random_images, random_model


def test_webassembly_answers_as_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One test, so that of several processes one builds: a minute the first time, then what has changed."""
    if CMAKE is None or not all(map(shutil.which, ("emcmake", "node"))):
        pytest.skip("needs cmake, emscripten and node")
    build, prefix = ROOT / "build" / "wasm-plain", tmp_path / "prefix"
    call("emcmake", CMAKE, "-S", ROOT, "-B", build, "-DBHVIT_OPTIMIZE=1", "-DBHVIT_WARNINGS_AS_ERRORS=ON")
    call(CMAKE, "--build", build)
    call(CMAKE, "--install", build, "--prefix", prefix)
    folder, model = prefix / "lib", str(FOLDER / "cifar10.bhv")
    scripts = (ROOT / "examples" / "classify.mjs", ROOT / "examples" / "segment.mjs", ROOT / "tests/native/run.mjs")
    for script in scripts:
        shutil.copy(script, folder)

    best = set()
    for seed in range(4):
        picture = tmp_path / f"{seed}.ppm"
        pixels = np.random.default_rng(seed).integers(0, 64, (32, 32 + seed, 3)) + np.roll([192, 96, 0], seed)
        Image.fromarray(pixels.astype(np.uint8)).save(picture)
        assert main(["classify", model, str(picture), "--top", "1", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)[0]["classes"][0]
        said = call("node", folder / "classify.mjs", model, picture)
        assert said == f"{100 * answer['probability']:.1f} %  {answer['name']}\n"
        best.add(answer["name"])
    assert len(best) > 1  # or the same answer would prove nothing

    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    image.tofile(tmp_path / "image")
    refused = call("node", folder / "run.mjs", model, tmp_path / "image", tmp_path / "logits", "10").splitlines()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits", np.float32), Session(model)(image)[0])
    assert refused[0] == "1 threads must be 1 in WebAssembly built without -pthread, not 2"
    assert refused[1].startswith("3 ")
    assert "cut short" in refused[1]
    assert refused[2].startswith(f"2 cannot read {model}: ")
    assert refused[3].endswith("not one that this machine can run: auto, wasm")

    stages = tuple(StageSpec(depth=1, channels=channels, hidden=128, mixer="conv") for channels in (64, 128))
    spec = ModelSpec(name="labels", img_size=(16, 40), patch=4, num_classes=5, task="segment", stages=stages)
    labelling = tmp_path / "labels.bhv"
    bhv_file.write(random_model(spec), labelling)
    image = random_images(spec, 1)
    image.tofile(tmp_path / "image")
    call("node", folder / "run.mjs", labelling, tmp_path / "image", tmp_path / "logits", str(5 * 16 * 40))
    logits = Session(labelling)(image)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits", np.float32), logits.ravel())
    labels = np.fromfile(tmp_path / "logits.labels", np.uint8).reshape(16, 40)
    np.testing.assert_array_equal(labels, logits[0].argmax(axis=0))

    picture, written = tmp_path / "0.ppm", tmp_path / "written.pgm"
    said = call("node", folder / "segment.mjs", labelling, picture, written)
    expected = Session(labelling).segment(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(written)), expected)
    assert [float(line.split()[0]) for line in said.splitlines()] == [
        pytest.approx(100 * share, abs=0.051) for share in np.bincount(expected.ravel()) / expected.size if share
    ]
    for example, other, reason in (("classify", labelling, "labels pixels"), ("segment", model, "classifies")):
        done = subprocess.run(
            ["node", folder / f"{example}.mjs", other, picture, *([written] if example == "segment" else [])],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"the model {reason}; see " in done.stderr

    # Its global tokens need 60 GiB, which 32 bits count as 64 MiB.
    wide = StageSpec(depth=1, channels=1024, hidden=1024, mixer="attention", window=(1, 1))
    spec = ModelSpec(name="wide", img_size=(62, 64), patch=1, num_classes=2, stages=(wide,))
    bhv_file.write(random_model(spec, half=True), tmp_path / "wide.bhv")
    said = call("node", folder / "run.mjs", tmp_path / "wide.bhv", tmp_path / "image", tmp_path / "logits", "2")
    assert said.splitlines()[4].startswith("4 needs 6")
    assert "above the limit of 512 MiB" in said
