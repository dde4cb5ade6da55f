"""Checkpoints: a model's weights, description, class names and preprocessing in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from ..errors import UserError
from ..files import write_atomically
from ..image import Preprocess
from ..spec import ModelSpec
from .network import BHViT

FORMAT = "bhvit-checkpoint"
VERSION = "1"


def save_checkpoint(model: BHViT, path: str | Path) -> None:
    """Write `model` to a safetensors file, whole or not at all. Raises UserError if that fails."""
    model.require_classifier()
    described = {"version": VERSION, "spec": model.spec.to_json()}
    if model.class_names is not None:
        described["class_names"] = json.dumps(model.class_names)
    if model.preprocess is not None:
        described["preprocess"] = model.preprocess.to_json()
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    # One key: the library writes several in random order, and equal models should give equal files.
    metadata = {FORMAT: json.dumps(described, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: str | Path) -> BHViT:
    """The model in a checkpoint, in evaluation mode, on the CPU.

    Raises UserError if the file is absent, damaged, not a checkpoint of ours, or holds other tensors
    than its description needs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error
    if FORMAT not in metadata:
        found = "a packed model" if metadata.get("format") == "bhvit" else "not a checkpoint of bhvit"
        raise UserError(f"{path} is {found}; a checkpoint that `bhvit train` wrote is needed")
    try:
        described = dict(json.loads(metadata[FORMAT]))
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: its description cannot be read") from None
    if described.get("version") != VERSION:
        raise UserError(f"{path} has version {described.get('version')}; this bhvit reads version {VERSION}")
    model = BHViT(ModelSpec.from_json(described.get("spec", "")))
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise UserError(f"{path}: tensor {name} is {'missing' if name in expected else 'unknown'}")
        if tensors[name].shape != expected[name].shape:
            raise UserError(
                f"{path}: tensor {name} has shape {list(tensors[name].shape)}, not {list(expected[name].shape)}"
            )
    model.load_state_dict(tensors)
    if "class_names" in described:
        model.class_names = tuple(json.loads(described["class_names"]))
    if "preprocess" in described:
        model.preprocess = Preprocess.from_json(described["preprocess"])
    return model.eval()
