"""Load weights from a safetensors file, naming the first that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import safetensors
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ...errors import UserError
from ...spec.model import ModelSpec

Model = TypeVar("Model", bound=nn.Module)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises UserError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error


def build_with_weights(
    make: Callable[[ModelSpec], Model], spec: ModelSpec, tensors: dict[str, Tensor], path: str | Path
) -> Model:
    """Make the model of `spec` and copy `tensors`, from the file `path`, into it.

    They are compared with a model without memory first: a small file may describe a network of any size. Raises
    UserError naming the first tensor that is missing, unknown or of another shape.
    """
    if not spec.registered:  # modules of others may not be made without memory
        with torch.device("meta"):
            _check_fit(make(spec).state_dict(), tensors, path)
    model = make(spec)
    _check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)
    return model


def _check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise UserError(f"{path}: tensor {name} is {'missing' if name in expected else 'unknown'}")
        if tensors[name].shape != expected[name].shape:
            raise UserError(
                f"{path}: tensor {name} has shape {list(tensors[name].shape)}, not {list(expected[name].shape)}"
            )


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model on the CPU, contiguous, as safetensors needs it."""
    return {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
