"""Checkpoints: a model's weights, description, class names and preprocessing in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from .. import bundled
from ..errors import UserError
from ..files import write_atomically
from ..hf_layout import CONFIG, WEIGHTS
from ..image import Preprocess
from ..spec.model import ModelSpec
from .base.weights import load_weights, own_tensors, read_weights
from .network import BHViT

FORMAT = "bhvit-checkpoint"
VERSION = "1"


def save_checkpoint(model: BHViT, path: str | Path) -> None:
    """Write `model` to a safetensors file, whole or not at all.

    Raises UserError if that fails, or if its classifier was taken off.
    """
    model.require_classifier()
    described = {"version": VERSION, "spec": model.spec.to_json()}
    if model.class_names is not None:
        described["class_names"] = json.dumps(model.class_names)
    if model.preprocess is not None:
        described["preprocess"] = model.preprocess.to_json()
    # One key: the library writes several in random order, and equal models should give equal files.
    metadata = {FORMAT: json.dumps(described, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(own_tensors(model), metadata))


def load_checkpoint(path: str | Path) -> BHViT:
    """The model in a checkpoint, in evaluation mode, on the CPU; or that of the weights in a model's folder; or,
    where no such file is, the bundled model of that name.

    Raises UserError if the file is absent, damaged, not a checkpoint of ours, or holds other tensors
    than its description needs.
    """
    path = bundled.find(path, ".safetensors")
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}{bundled.hint(path)}")
    tensors, metadata = read_weights(path)
    if FORMAT not in metadata:
        if path.name == WEIGHTS and (path.parent / CONFIG).is_file():
            return BHViT.from_pretrained(path.parent)
        found = "a packed model" if metadata.get("format") == "bhvit" else "not a checkpoint of bhvit"
        raise UserError(f"{path} is {found}; a checkpoint that `bhvit train` wrote is needed")
    try:
        described = dict(json.loads(metadata[FORMAT]))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: its description cannot be read") from None
    if described.get("version") != VERSION:
        raise UserError(f"{path} has version {described.get('version')}; this bhvit reads version {VERSION}")
    model = BHViT(ModelSpec.from_json(described.get("spec", "")))
    load_weights(model, tensors, path)
    if "class_names" in described:
        model.class_names = tuple(json.loads(described["class_names"]))
    if "preprocess" in described:
        model.preprocess = Preprocess.from_json(described["preprocess"])
    return model.eval()
