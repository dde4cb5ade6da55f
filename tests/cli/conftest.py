"""A run that nobody trained: a small model with random weights, images of it, its checkpoint and packed file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from bhvit.cli.main import main
from bhvit.image import Preprocess
from bhvit.models import create_model, save_checkpoint
from bhvit.packing import pack
from helpers.randomise import randomise

# The slash of an end tag cannot stand in the name of a folder; a sign that looks like it does.
CLASSES = ("<script>alert(1)<∕script>", "cat & 'dog'", "plain")


class Material(NamedTuple):
    run: Path
    """A run folder with config.json, log.jsonl, best.safetensors, other.safetensors, model.bhv."""
    checkpoint: Path
    model: Path
    images: Path
    """A folder for each class, named after it."""


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _one_core() -> Iterator[None]:
    """Reports and demos time PyTorch on all cores: on a machine busy with other tests that takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bhvit.report.measure.allowed_cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    root = tmp_path_factory.mktemp("material")
    run, images = root / "run", root / "images"
    run.mkdir()
    rng = np.random.default_rng(0)
    names = tuple(sorted(CLASSES))
    for name in names:
        (images / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number}.png")
    for seed, file in enumerate(("best.safetensors", "other.safetensors")):
        model = randomise(create_model("bhvit_nano", num_classes=len(names)), seed)
        model.class_names, model.preprocess = names, Preprocess(size=(32, 32))
        save_checkpoint(model, run / file)
        if seed == 0:
            pack(model, run / "model.bhv", float_storage="float32")
    (run / "config.json").write_text(json.dumps({"data": str(images), "model": "bhvit_nano", "lr": 1e-3}))
    entries = [
        {
            "epoch": epoch,
            "lr": 1e-3 / epoch,
            "train_loss": 1 / epoch,
            "train_top1": 1 - 1 / epoch,
            "val_loss": 1.5 / epoch,
            "val_top1": 0.3,
            "seconds": 1.0,
            "flipped": {"stages.0.0.mlp.linear1": 0.01 * epoch, "<b>": 0.1},
            **({"oscillating": {"stages.0.0.mlp.linear1": 0.01}} if epoch > 1 else {}),
        }
        for epoch in (1, 2, 3)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"epoch": 4, "lo')
    return Material(run=run, checkpoint=run / "best.safetensors", model=run / "model.bhv", images=images)


@pytest.fixture
def bhvit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the command line in this process: status, standard output, standard error."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(status, out, err)

    return call


@pytest.fixture
def refused(bhvit: Callable[..., Answer]) -> Callable[..., str]:
    """Run what must be refused: status 2 and one line on standard error, which is returned."""

    def call(*words: object) -> str:
        answer = bhvit(*words)
        assert answer.status == 2, answer
        assert answer.err.startswith("bhvit: "), answer.err
        assert answer.err.count("\n") == 1, answer.err
        assert answer.out == ""
        return answer.err.strip()

    return call
