"""Weights from a safetensors file into a model, refused by name where they do not fit."""

from __future__ import annotations

from pathlib import Path

import safetensors
from safetensors import SafetensorError
from torch import Tensor, nn

from ...errors import UserError


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises UserError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Copy `tensors`, from the file `path`, into `model`.

    Raises UserError naming the first tensor that is missing, unknown or of another shape.
    """
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise UserError(f"{path}: tensor {name} is {'missing' if name in expected else 'unknown'}")
        if tensors[name].shape != expected[name].shape:
            raise UserError(
                f"{path}: tensor {name} has shape {list(tensors[name].shape)}, not {list(expected[name].shape)}"
            )
    model.load_state_dict(tensors)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model as safetensors writes it: on the CPU, laid out in order."""
    return {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
