"""Settings chosen by the images, for `bhvit train --data photos` and nothing else.

A run on photographs of one's own starts from the bundled model that fits their size, takes smaller steps in early
blocks, weighs rare classes higher and stops when validation accuracy no longer rises. The recipes are for everything
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import bundled
from ..data.dataset import Dataset
from ..data.sources import BUILT_IN
from ..format.checkpoint import CheckpointDescription, read_metadata
from ..spec.overrides import OVERRIDES
from .recipe_files import load_recipe
from .warm_start import settings_of

STEPS = 3000
"""Optimiser steps of a run, unless that is too few or too many epochs."""
EPOCHS = (10, 60)
"""Fewest and most epochs."""
BATCHES = ((2_000, 32), (10_000, 64))
"""Batch sizes of sets below a number of images; larger sets have 128."""
SAMPLE = 50
"""Images whose size is looked at."""
SMALL = 1.5
"""Images of up to this many times the model's edge are moved a little; larger ones are cropped at random."""
DECIDED_BY_MODEL = {*OVERRIDES, "model", "init", "patch", "channels", "phases"} - {"task"}
"""Settings that say which model to train: with one of them nothing is chosen."""


def applies(given: Mapping[str, Any]) -> bool:
    """Whether the given settings name own images and no model."""
    return given["data"] not in BUILT_IN and not names_model(given)


def names_model(given: Mapping[str, Any]) -> bool:
    """Whether one of the given settings says which model to train."""
    names = {name.partition(".")[0] for name in given}
    return "stages" in names or bool(names & DECIDED_BY_MODEL)


def chosen(dataset: Dataset) -> dict[str, Any]:
    """The settings by name for training on `dataset`, which the caller's own settings may replace."""
    count = len(dataset)
    edge = _usual_edge(dataset)
    start = _nearest_bundled(edge)
    settings = settings_of(bundled.find(start, ".safetensors"))
    batch = next((size for limit, size in BATCHES if count < limit), 128)
    batch = max(2, min(batch, count))
    fewest, most = EPOCHS
    large = edge > SMALL * min(settings["img_size"])
    return {
        **load_recipe("finetune"),
        **settings,
        "init": start,
        "batch_size": batch,
        "epochs": int(np.clip(round(STEPS * batch / count), fewest, most)),
        "augment": "resized-crop" if large else "shift",
        "balance": 0.5,
        "patience": 15,
    }


def sentence(settings: Mapping[str, Any], dataset: Dataset) -> str:
    """Say in one line what a run does and how to change it.

    `settings` are the chosen ones with the caller's own in their place.
    """
    height, width = settings["img_size"]
    parts = [
        f"starts from the bundled model {settings['init']} at {height}x{width} pixels (--init, --img-size)",
        f"{settings['epochs']} epochs (--epochs) of {len(dataset)} images in batches of {settings['batch_size']}",
        f"smaller steps in early blocks (--set layer_decay={settings['layer_decay']:g})",
        f"rare classes count more (--set balance={settings['balance']:g})",
        f"stops after {settings['patience']} epochs without gain (--set patience={settings['patience']})",
    ]
    return "chosen for these images: " + "; ".join(parts) + "; --recipe small trains from scratch"


def output_folder(data: str) -> str:
    """The run's folder where none is named: runs/ and the name of the data."""
    return str(Path("runs") / (Path(data).resolve().name.partition(".")[0] or "run"))


def _usual_edge(dataset: Dataset) -> float:
    """The median of the shorter edge, in pixels, of a sample of the images."""
    places = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int))
    return float(np.median([min(dataset.image(int(place)).size) for place in places]))


def _nearest_bundled(edge: float) -> str:
    """Name the bundled classifier with the largest input that `edge` pixels fill.

    The smallest of all, if images fill none.
    """
    sizes = {}
    for name in bundled.list_bundled():
        checkpoint = bundled.find(name, ".safetensors")
        if checkpoint.is_file():
            described = CheckpointDescription.from_metadata(read_metadata(checkpoint), checkpoint)
            if described.spec.task == "classify":
                sizes[name] = min(described.spec.img_size)
    filled = {name: size for name, size in sizes.items() if size <= edge}
    return max(filled, key=filled.__getitem__) if filled else min(sizes, key=sizes.__getitem__)
