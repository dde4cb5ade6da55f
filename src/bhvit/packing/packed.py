"""From a model in evaluation mode to the file that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import format
from ..errors import UserError
from ..files import refuse_existing
from ..format import PackedModel
from ..image import Preprocess
from ..models import BHViT
from ..ops import program
from .lower import lower

Leftovers = Literal["mixed", "float16", "float32"]
"""What stays full precision: "mixed" halves the classifier's weights, which changes next to no answer;
"float16" the position maps as well, which flips signs all the way down; "float32" halves nothing."""


def packed_model(
    model: BHViT,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    leftovers: Leftovers = "mixed",
) -> PackedModel:
    """The op program of `model` with its tensors.

    class_names and preprocess default to the model's own, else to numbers and ImageNet's usual
    preprocessing at the model's size. leftovers: see `Leftovers`.
    Raises UserError if the model is in training mode, holds numbers that are not finite, or the names
    do not match its classes.
    """
    if model.training:
        raise UserError("the model is in training mode; call model.eval() before packing it")
    model.require_classifier()
    names = tuple(class_names or model.class_names or map(str, range(model.spec.num_classes)))
    if len(names) != model.spec.num_classes:
        raise UserError(f"{len(names)} class names given for a model of {model.spec.num_classes} classes")
    ops = tuple(program(model.spec))
    lowered = lower(model)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for op in ops:
        for name, value in lowered[op.name].items():
            key = f"{op.name}.{name}"
            stored = value if value.dtype == np.uint32 else _stored(key, value, leftovers)
            tensors[key] = stored
    packed = PackedModel(
        spec=model.spec,
        ops=ops,
        tensors=tensors,
        class_names=names,
        preprocess=preprocess or model.preprocess or default_preprocess(model),
    )
    format.check(packed)
    return packed


def pack(
    model: BHViT,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    leftovers: Leftovers = "mixed",
    force: bool = False,
) -> None:
    """Write `model`, in evaluation mode, to a `.bhv` file; the arguments are those of `packed_model`.

    Raises UserError if `path` exists and `force` is not set, or cannot be written.
    """
    refuse_existing(path, force)
    format.write(packed_model(model, class_names, preprocess, leftovers), path)


def default_preprocess(model: BHViT) -> Preprocess:
    """ImageNet's usual mean and deviation at the model's input size."""
    return Preprocess.usual(model.spec.img_size, model.spec.in_chans)


def _stored(key: str, value: npt.NDArray[np.float64], leftovers: Leftovers) -> npt.NDArray[Any]:
    # Per-channel constants stay float32: they are few, and place thresholds.
    classifier, position = key == "head.weight", key.endswith(".position")
    half = (classifier and leftovers != "float32") or (position and leftovers == "float16")
    with np.errstate(over="ignore"):  # what overflows is found and named by `format.check`
        return value.astype(np.float16 if half else np.float32)
