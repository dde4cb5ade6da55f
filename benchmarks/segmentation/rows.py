"""What is compared on street scenes, and the stages that each row is trained in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bhvit import bundled
from bhvit.train import TrainConfig, load_recipe
from bhvit.train.run_folder import RunFolder

EPOCHS = {"small": 40, "full": 6}
STAGES: Mapping[str, Mapping[str, Any]] = {
    "small": {"img_size": (128, 160), "lr": 2e-3},
    "full": {"lr": 1e-3, "warmup_epochs": 0.2},
}
"""Of each row: small images, then, from those weights, images of the row's size."""
COMMON: Mapping[str, Any] = {"colour": 0.5}
"""Test images are from darker to brighter than all training images, so brightness changes more than usual."""


class Row(NamedTuple):
    """A network of the comparison."""

    what: str
    settings: Mapping[str, Any] = {}
    backbone: str | None = None
    """The bundled classifier that it starts from."""
    network: str = "bhvit"
    """"lraspp": torchvision's, not ours."""
    rate: float = 1.0
    """Times the learning rate of binary networks."""
    size: tuple[int, int] = (240, 320)
    """Height and width of the last stage's images; smaller for networks that need more time for an image."""


NANO = {"model": "bhvit_nano", "decoder_channels": 64, "decoder_hidden": 256, "patch": 4}
ROWS: Mapping[str, Row] = {
    "scratch": Row("binary, from scratch"),
    "twin": Row("the same in full precision", {"weight_bits": 32, "activation_bits": 32, "float_bits": 32}),
    "cifar10": Row(
        "binary, from the bundled classifier `cifar10`", {**NANO, "stem_kernel": 4}, "cifar10", size=(192, 256)
    ),
    "tinyimagenet": Row(
        "binary, from the bundled `tinyimagenet`", {**NANO, "stem_kernel": 8}, "tinyimagenet", size=(192, 256)
    ),
    "no-blocks": Row("decoder without blocks at the finest grid", {"decoder_blocks": 0}),
    "two-blocks": Row("decoder of two blocks", {"decoder_blocks": 2}),
    "narrow": Row("decoder of 64 channels", {"decoder_channels": 64, "decoder_hidden": 128}),
    "lraspp": Row("LR-ASPP, MobileNetV3-Large (torchvision), from scratch", network="lraspp", rate=0.5),
}
MAIN = ("scratch", "cifar10", "tinyimagenet", "twin", "lraspp")
"""Rows that are trained with several seeds."""


class Stage(NamedTuple):
    """A run: one stage of one row with one seed."""

    row: str
    name: str
    seed: int

    @property
    def folder(self) -> str:
        """Its folder's name within all runs."""
        return f"{self.row}-s{self.seed}-{self.name}"

    def config(
        self, data: str, runs: Path, epochs: float = 1.0, changes: Mapping[str, Any] | None = None
    ) -> TrainConfig:
        """Its settings; `epochs` scales the number of epochs, at least one remains."""
        row = ROWS[self.row]
        settings = {
            **load_recipe("scene"),
            **COMMON,
            "img_size": row.size,
            **row.settings,
            **STAGES[self.name],
            "data": data,
            "out": str(runs / self.folder),
            "epochs": max(1, round(epochs * EPOCHS[self.name])),
            "seed": self.seed,
            "threads": 1,
            "include_validation": True,
            "device": "cpu",
            **(changes or {}),
        }
        settings["lr"] = row.rate * float(settings["lr"])
        before = self._before(runs)
        if before is not None:
            settings["init"] = before
        return TrainConfig.from_dict(settings)

    def _before(self, runs: Path) -> str | None:
        """What it starts from: the stage before it, or a bundled classifier."""
        place = list(STAGES).index(self.name)
        if place:
            return str(runs / self._replace(name=list(STAGES)[place - 1]).folder / "last.safetensors")
        backbone = ROWS[self.row].backbone
        return None if backbone is None else str(bundled.find(backbone, ".safetensors"))


def stages(rows: list[str], seeds: list[int]) -> list[Stage]:
    """The runs of rows, each row's stages one after the other; rows whose backbone is not bundled are left out."""
    known = bundled.list_bundled()
    usable = [name for name in rows if ROWS[name].backbone is None or ROWS[name].backbone in known]
    return [Stage(row, name, seed) for row in usable for seed in seeds for name in STAGES]


class Trained(NamedTuple):
    """The last stage of a row and seed that has finished an epoch."""

    stage: Stage
    folder: Path
    done: Mapping[str, tuple[int, int]]
    """Epochs of each stage, done and planned."""


def trained(runs: Path, row: str, seed: int) -> Trained | None:
    """What there is of a row and seed; None if no epoch of it has ended."""
    found, done = None, {}
    for name in STAGES:
        stage = Stage(row, name, seed)
        folder = runs / stage.folder
        weights = "last.pt" if ROWS[row].network == "lraspp" else "last.safetensors"
        if (folder / weights).exists():
            found = stage
            run = RunFolder(folder)
            done[name] = (len(run.entries()), int(run.settings()["epochs"]))
    return None if found is None else Trained(found, runs / found.folder, done)
