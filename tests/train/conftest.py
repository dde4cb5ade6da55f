"""A set of 8x8 images in two easy classes, and a run on it that takes a second."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bhvit.train.run_folder import RunFolder

pytest.importorskip("torch")
pytest.importorskip("timm")

import bhvit.train.loop as loop
from bhvit.train import TrainConfig, train

SMALL_MODEL = """
from bhvit.spec import sizes
from bhvit.spec import StageSpec
stages = (
    StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),
    StageSpec(depth=1, channels=64, hidden=64, mixer="attention", heads=2),
)
sizes._MODELS["small"] = (8, {"stages": stages})
"""
"""Registers a model of every kind of layer that trains in no time, here and in processes of their own."""

ANNOUNCED = """
import bhvit.train.loop
def announce(owner, name):
    real = getattr(owner, name)
    def announced(*arguments):
        result = real(*arguments)
        print(name, flush=True)
        return result
    setattr(owner, name, announced)
announce(bhvit.train.loop._Run, "_step")
announce(bhvit.train.loop.RunFolder, "save")
announce(bhvit.train.loop.RunFolder, "keep")
"""
"""Prints a line after each step and each file kept, so that a test knows how far a process is."""

BATCHES = 5
BATCH = 8


@pytest.fixture(scope="session", autouse=True)
def _small_model():
    """Registered while these tests run, not when they are collected: other tests go through all models by name."""
    from bhvit.spec import sizes

    exec(SMALL_MODEL)
    yield
    del sizes._MODELS["small"]


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Class folders: images bright on top, images bright below."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part, count in (("train", BATCHES * BATCH // 2), ("val", 8)):
        for label, name in enumerate(("above", "below")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 120, (8, 8, 3), dtype=np.uint8)
                pixels[4 * label : 4 * label + 4] += 120
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.fixture
def settings(images, tmp_path):
    """Settings of a small run as a dictionary."""
    return {
        "data": str(images),
        "model": "small",
        "out": str(tmp_path / "run"),
        "epochs": 3,
        "batch_size": BATCH,
        "img_size": 8,
        "patch": 2,
        "shift": 0.125,
        "drop_path": 0.1,
        "threads": 1,
        "device": "cpu",
    }


@pytest.fixture
def config(settings):
    return lambda **changes: TrainConfig.from_dict({**settings, **changes})


@pytest.fixture
def arguments(settings, tmp_path):
    """The same settings as arguments of the command line, with no recipe behind them."""
    recipe = tmp_path / "none.toml"
    recipe.touch()

    def arguments(**changes):
        values = {**settings, **changes}
        given = [f"--set={key}={value}" for key, value in values.items()]
        return ["train", "--quiet", f"--recipe={recipe}", *given, "--out", str(values["out"])]

    return arguments


class Killed(BaseException):
    """Ends a run as abruptly as a signal, within the process."""


@pytest.fixture
def kill(monkeypatch):
    """Trains until the loop, or its folder, calls a function of the name `where` for the `call`-th time."""

    def kill(config, where, call):
        owner: Any = {"_step": loop._Run, "save_checkpoint": loop}.get(where, RunFolder)
        real = getattr(owner, where)
        calls = []

        def deadly(*arguments):
            calls.append(1)
            if len(calls) == call:
                raise Killed
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, where, deadly)
            with pytest.raises(Killed):
                train(config, quiet=True)

    return kill


@pytest.fixture
def program():
    """A Python program that is the command line, with the small model, and says what it has done."""
    return f"{SMALL_MODEL}\n{ANNOUNCED}\nfrom bhvit.cli.main import main\nraise SystemExit(main())"


@pytest.fixture
def start(program):
    """Starts the command line in a process of its own, and waits until it has done each of `until`, in that order."""
    processes = []

    def start(arguments, until=(), command=(sys.executable, "-c", program)):
        process = subprocess.Popen(
            [*command, *arguments],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        for event in until:
            line = None
            while line != f"{event}\n":
                line = process.stdout.readline()
                assert line, f"it ended before it came to {event}: {process.stderr.read()}"
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
