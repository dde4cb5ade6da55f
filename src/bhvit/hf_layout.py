"""The files of a model's folder in the Hugging Face convention.

`config.json` holds the spec and the class names, `preprocessor_config.json` the preprocessing, both under the names
that transformers gives such things; `model.safetensors` holds the weights, `README.md` the model card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .calibration import Calibration
from .errors import UserError
from .image import Preprocess
from .spec.model import ModelSpec

T = TypeVar("T")

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"

MODEL_TYPE = "bhvit"
ARCHITECTURES = {"classify": "BHViTForImageClassification", "segment": "BHViTForSemanticSegmentation"}
"""By the task of the spec, the class of transformers that holds it."""
PROCESSOR = "BHViTImageProcessor"
PREFIX = "bhvit."
"""What the weights' names begin with where transformers' class wrote them, which holds the network under that name."""


def read_json(path: Path, parse: Callable[[Any], T]) -> T:
    """Parse a JSON file of a model's folder. Raises UserError naming the file."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def label(index: int) -> str:
    """What transformers calls a class without a name."""
    return f"LABEL_{index}"


def config(
    spec: ModelSpec, class_names: Sequence[str] | None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What `config.json` holds; without class names, those that stand for none."""
    names = list(class_names or map(label, range(spec.num_classes)))
    return {
        "architectures": [ARCHITECTURES[spec.task]],
        "model_type": MODEL_TYPE,
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "spec": json.loads(spec.to_json()),
        **({} if calibration is None else {"calibration": json.loads(calibration.to_json())}),
    }


def read_config(fields: Any) -> tuple[ModelSpec, tuple[str, ...] | None]:
    """The spec and the class names of a `config.json`, None if it has none.

    Raises UserError if it is not one of ours, is damaged, or names other classes than the spec has.
    """
    if not isinstance(fields, dict) or fields.get("model_type") != MODEL_TYPE:
        kind = fields.get("model_type") if isinstance(fields, dict) else None
        raise UserError(f"it describes a model of type {kind!r}, not {MODEL_TYPE!r}")
    spec = ModelSpec.from_json(json.dumps(fields.get("spec")))
    labels = fields.get("id2label")
    if labels is None:
        return spec, None
    labels = labels if isinstance(labels, dict) else {}
    unnamed = [label(index) for index in range(spec.num_classes)]
    names = [labels.get(str(index)) for index in range(len(unnamed))]
    known = tuple(name for name in names if isinstance(name, str))
    if not len(labels) == len(known) == len(unnamed):
        raise UserError(f"its id2label must name classes 0 to {len(unnamed) - 1}")
    return spec, None if list(known) == unnamed else known


def read_calibration(fields: Any) -> Calibration | None:
    """Read the calibration of a `config.json`; None if it has none.

    Raises UserError if it is damaged.
    """
    found = fields.get("calibration") if isinstance(fields, dict) else None
    return None if found is None else Calibration.from_json(json.dumps(found))


def preprocessor(preprocess: Preprocess, whole_image: bool = False) -> dict[str, Any]:
    """Return the contents of `preprocessor_config.json`.

    `whole_image` says that nothing is cropped, as for a segmentation.
    """
    return {
        **({"whole_image": True} if whole_image else {}),
        "image_processor_type": PROCESSOR,
        "size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "num_channels": preprocess.channels,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "crop_pct": preprocess.crop,
        "interpolation": preprocess.interpolation,
        **({"draft": preprocess.draft} if preprocess.draft else {}),
    }


def read_preprocessor(fields: Any) -> Preprocess:
    """Read the preprocessing of a `preprocessor_config.json`.

    Raises UserError if it is damaged or of another kind of processor.
    """
    if not isinstance(fields, dict) or fields.get("image_processor_type") != PROCESSOR:
        kind = fields.get("image_processor_type") if isinstance(fields, dict) else None
        raise UserError(f"it describes an image processor of type {kind!r}, not {PROCESSOR!r}")
    try:
        return Preprocess(
            size=(fields["size"]["height"], fields["size"]["width"]),
            channels=fields["num_channels"],
            mean=tuple(fields["image_mean"]),
            std=tuple(fields["image_std"]),
            crop=fields["crop_pct"],
            interpolation=fields["interpolation"],
            draft=fields.get("draft", 0.0),
        )
    except UserError:
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"the preprocessing description is damaged: {error!r}") from None
