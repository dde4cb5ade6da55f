"""Checkpoints: a model's weights, description, class names and preprocessing in one safetensors file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .. import bundled
from ..errors import UserError
from ..files import write_atomically
from ..format.checkpoint import FORMAT, CheckpointDescription, read_description
from .base.weights import build_with_weights, own_tensors, read_weights
from .network import BHViT


def save_checkpoint(model: BHViT, path: str | Path) -> None:
    """Write `model` to a safetensors file, whole or not at all.

    Raises UserError if that fails, or if its classifier was taken off.
    """
    model.require_classifier()
    tensors = own_tensors(model)
    described = CheckpointDescription(
        spec=model.spec,
        class_names=model.class_names,
        preprocess=model.preprocess,
        calibration=model.calibration,
        checksum=checksum(tensors),
    )
    write_atomically(path, safetensors.torch.save(tensors, described.to_metadata()))


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of all tensors as eight hexadecimal digits.

    It covers names and bytes, in the order of the names.
    """
    found = 0
    for name in sorted(tensors):
        data: Any = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def load_checkpoint(path: str | Path) -> BHViT:
    """Load the model of a checkpoint, in evaluation mode, on the CPU.

    `path` may also be the weights in a model's folder, or the name of a bundled model. Raises UserError if the file is
    absent, damaged, not a checkpoint of ours, or holds other tensors than its description needs.
    """
    path = bundled.find(path, ".safetensors")
    described = read_description(path)
    tensors, metadata = read_weights(path)
    if FORMAT not in metadata:  # described by the files next to it
        return BHViT.from_pretrained(path.parent)
    if described.checksum is not None and described.checksum != checksum(tensors):
        raise UserError(f"{path} is damaged: its checksum does not match its weights; copy or train it again")
    model = build_with_weights(BHViT, described.spec, tensors, path)
    model.class_names, model.preprocess = described.class_names, described.preprocess
    model.calibration = described.calibration
    return model.eval()
