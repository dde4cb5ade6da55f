"""From a model in evaluation mode to the file that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from .._native import Program
from ..errors import UserError, counted
from ..files import write_atomically
from ..format import file as bhv_file
from ..format.file import PackedModel
from ..format.float_storage import FloatStorage, decode, encode, is_map_or_classifier, layout, scale_key
from ..format.program import program
from ..image import Preprocess
from ..models import BHViT
from .lowering import lowered
from .ops import lower


def packed_model(
    model: BHViT,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    float_storage: FloatStorage | None = None,
) -> PackedModel:
    """The op program of `model` with its tensors.

    class_names and preprocess default to the model's own, else to numbers and ImageNet's usual
    preprocessing at the model's size. float_storage: see `FloatStorage`; by default
    "int8" for a model whose spec has `float_bits` 8, else "mixed".
    Raises UserError if the model is another's, is in training mode, holds numbers that are not finite, holds a module
    that packing does not know (see `register_lowering`) or a hook, or the names do not match its classes.
    """
    if not isinstance(model, BHViT):
        raise UserError(f"only models of this package can be packed, not {type(model).__name__}: see create_model")
    if model.training:
        raise UserError("the model is in training mode; call model.eval() before packing it")
    if isinstance(model.head.linear, nn.Identity):
        model.require_classifier()
    model = lowered(model)
    described = bhv_file.describe_spec(
        model.spec, class_names or model.class_names, preprocess or model.preprocess, model.calibration
    )
    if len(described.class_names) != model.spec.num_classes:
        given = len(described.class_names)
        raise UserError(
            f"{counted(given, 'class name')} given for a model of {counted(model.spec.num_classes, 'class')}"
        )
    ops = tuple(program(model.spec))
    stored = layout(ops, float_storage or model.spec.float_storage)
    tensors: dict[str, npt.NDArray[Any]] = {}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # `bhv_file.check` finds and names the tensor
        lowered_tensors = lower(model, ops)
        for op in ops:
            for name in op.shapes():
                key, value = f"{op.name}.{name}", lowered_tensors[op.name][name]
                if (model.spec.float_bits == 8 and is_map_or_classifier(key)) or stored[key][0] == np.int8:
                    whole, scale = encode(value.astype(np.float32))
                    if stored[key][0] == np.int8:
                        tensors[key], tensors[scale_key(key)] = whole, scale
                        continue
                    value = decode(whole, scale)
                tensors[key] = value.astype(stored[key][0], copy=False)
    packed = PackedModel(**vars(described), ops=ops, tensors=tensors)
    bhv_file.check(packed)
    return packed


def pack(
    model: BHViT,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    float_storage: FloatStorage | None = None,
    force: bool = False,
) -> None:
    """Write `model`, in evaluation mode, to a `.bhv` file; the arguments are those of `packed_model`.

    Raises UserError if `path` exists and `force` is not set, does not end in .bhv, or cannot be written.
    """
    bhv_file.check_target(path, force)
    data = bhv_file.to_bytes(packed_model(model, class_names, preprocess, float_storage))
    check_opens(data)
    write_atomically(path, data)


def check_opens(data: bytes) -> None:
    """Raise FormatError unless both readers take the bytes of a packed file."""
    bhv_file.from_bytes(data)
    Program(data, max_memory=(1 << 64) - 1)
