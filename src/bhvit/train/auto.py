"""Settings chosen by the images, for `bhvit train --data photos` and nothing else.

A run on photographs of one's own starts from the bundled model that fits their size, or from the checkpoint it is
given, sees them whole and larger than that model did, takes smaller steps in early blocks, weighs rare classes higher
and stops when validation accuracy no longer rises. The recipes are for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import bundled
from ..data.dataset import Dataset, count_images
from ..data.masks import count_images as count_masked_images
from ..data.sources import BUILT_IN
from ..errors import counted
from ..format.checkpoint import read_description
from ..spec.model import DECODER_FIELDS
from ..spec.overrides import OVERRIDES
from ..spec.sizes import model_spec
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
LARGER = 1.5
"""The shorter edge of the input, where images have as much, over that of the bundled model's input: features of
photographs gain from it (benchmarks/accuracy/finetune.md), and a step takes two to three times as long."""
SMALL = 1.5
"""Images of up to this many times the bundled model's edge are moved a little; larger ones are cropped at random."""
ALIKE = 0.1
"""How far aspects may be from their median for the input to have that one."""
MOST = 0.9
"""Share of the images that must be so."""
MOST_ASPECT = 2.0
"""The longest input, as a multiple of its shorter edge."""
OF_ANY_START = {"weight_bits", "activation_bits", "float_bits", "recu"}
"""Overrides of a model that can start from weights of a model without them."""
OF_BACKBONE = {*OVERRIDES, "model", "patch", "channels", "stages"} - {*DECODER_FIELDS, *OF_ANY_START}
"""Settings that the weights of a bundled model need not fit."""


def applies(given: Mapping[str, Any]) -> bool:
    """Whether the given settings name own images, and of a model nothing but the weights to start from."""
    return given["data"] not in BUILT_IN and not names_model(given) and "phases" not in _first_parts(given)


def names_model(given: Mapping[str, Any]) -> bool:
    """Whether one of the given settings asks for another model than that of bundled weights."""
    return bool(_first_parts(given) & OF_BACKBONE)


def without_model(recipe: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of masks without the model it is for, to start from another.

    start: that one's settings (`settings_of`). A classifier gets the recipe's decoder, a segmentation keeps its own.
    """
    own = OF_BACKBONE if start.get("task", "classify") == "classify" else OF_BACKBONE | {*DECODER_FIELDS} - {"task"}
    return {name: value for name, value in recipe.items() if name.partition(".")[0] not in own}


def _first_parts(given: Mapping[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in given}


def chosen(dataset: Dataset, start: str | None = None) -> dict[str, Any]:
    """The settings by name for training on `dataset`, which the caller's own settings may replace.

    start: the checkpoint to start from, by path or name; otherwise a bundled one. Raises UserError if it cannot be
    read.
    """
    count = len(dataset)
    shapes = _shapes(dataset)
    edge = float(np.median(shapes.min(axis=1)))
    start = start or _nearest_bundled(edge)
    settings = settings_of(start)
    batch = next((size for limit, size in BATCHES if count < limit), 128)
    batch = max(2, min(batch, count))
    fewest, most = EPOCHS
    large = edge > SMALL * min(settings["img_size"])
    return {
        **load_recipe("finetune"),
        **settings,
        "init": start,
        "img_size": _input_size(shapes, min(settings["img_size"]), _multiple(settings)),
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
    (height, width), images = settings["img_size"], counted(len(dataset), "image")
    init, batch, patience = settings["init"], settings["batch_size"], settings["patience"]
    start = f"the bundled model {init}" if init in bundled.list_bundled() else init
    parts = [
        f"starts from {start} at {height}x{width} pixels (--init, --img-size)",
        f"{counted(settings['epochs'], 'epoch')} (--epochs) of {images} in batches of {batch} (--batch-size)",
    ]
    if settings["layer_decay"] < 1:
        parts.append(f"smaller steps in early blocks (--set layer_decay={settings['layer_decay']:g})")
    if settings["balance"] > 0:
        parts.append(f"rare classes count more (--set balance={settings['balance']:g})")
    if patience > 0:
        parts.append(f"stops after {counted(patience, 'epoch')} without gain (--set patience={patience})")
    return "chosen for these images: " + "; ".join(parts) + "; --recipe small trains from scratch"


def fitting_batch(settings: Mapping[str, Any]) -> int | None:
    """Return a smaller batch size where there are fewer training images than a batch has; else None."""
    if settings["data"] in BUILT_IN:
        return None
    fraction = settings["test_fraction"]
    if settings["task"] == "segment":
        count = count_masked_images(settings["data"], fraction)
    else:
        count = count_images(settings["data"], settings["classes"], fraction)
    return count if 2 <= count < settings["batch_size"] else None


def output_folder(data: str) -> str:
    """The run's folder where none is named: runs/ and the name of the data."""
    return str(Path("runs") / (Path(data).resolve().name.partition(".")[0] or "run"))


def _shapes(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return heights and widths of a sample of the images, (n, 2)."""
    places = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE).astype(int))
    return np.array([dataset.image(int(place)).size[::-1] for place in places])


def _input_size(shapes: npt.NDArray[np.int64], edge: int, multiple: int) -> list[int]:
    """Choose height and width of the input, multiples of `multiple`, for images of `shapes` (n, 2).

    `edge` is the bundled model's. The aspect is that of the images where nearly all have one, so that all of each is
    seen; otherwise the input is a square.
    """
    usual = float(np.median(shapes.min(axis=1)))
    shorter = max(edge, int(min(LARGER * edge, usual)) // multiple * multiple)
    aspects = shapes[:, 1] / shapes[:, 0]
    aspect = float(np.median(aspects))
    if np.mean(np.abs(aspects / aspect - 1) <= ALIKE) < MOST:
        return [shorter, shorter]
    longer = round(shorter * min(max(aspect, 1 / aspect), MOST_ASPECT) / multiple) * multiple
    return [shorter, longer] if aspect >= 1 else [longer, shorter]


def _multiple(settings: Mapping[str, Any]) -> int:
    """Return what edges of the input must be multiples of: every stage halves the grid of patches."""
    return int(settings["patch"]) << len(model_spec(settings["model"]).stages) - 1


def _nearest_bundled(edge: float) -> str:
    """Name the bundled classifier with the largest input that `edge` pixels fill.

    The smallest of all, if images fill none.
    """
    sizes = {}
    for name in bundled.list_bundled():
        checkpoint = bundled.find(name, ".safetensors")
        if checkpoint.is_file():
            described = read_description(checkpoint)
            if described.spec.task == "classify":
                sizes[name] = min(described.spec.img_size)
    filled = {name: size for name, size in sizes.items() if size <= edge}
    return max(filled, key=filled.__getitem__) if filled else min(sizes, key=sizes.__getitem__)
