"""From an op program to the bytes of an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import get_args

from ...errors import UserError, require_extra
from ...format.file import PackedModel

try:
    from .attention import attention, pooled_attention
    from .blocks import downsample, downsample_float, head, mixer, mlp, pooling, stem
    from .graph import Graph, WeightStorage
    from .layers import Layers
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "onnx":
        raise
    raise require_extra("onnx", "onnx") from None

WEIGHTS: tuple[str, ...] = get_args(WeightStorage)
"""How binary weights may be stored."""
EXPORTERS: Mapping[str, Callable[[Layers, str], str]] = {
    "stem": stem,
    "mixer": mixer,
    "pooling": pooling,
    "mlp": mlp,
    "attention": attention,
    "pooled_attention": pooled_attention,
    "downsample": downsample,
    "downsample_float": downsample_float,
    "head": head,
}
"""By kind of op: the op and the name of x -> the name of x after it."""


def to_onnx(model: PackedModel, weights: WeightStorage = "int8") -> bytes:
    """Return a packed model as an ONNX model: normalised images (batch, C, H, W) -> logits (batch, classes).

    Only operators of the standard's operator set 17. Binary weights are stored as int8 with DequantizeLinear, which
    every runtime knows; as bits, eight to a byte, unpacked by operators on constants (ONNX Runtime does so once, when
    it loads the model); or as float32. Class names, preprocessing and calibration are in the model's metadata, as in a
    `.bhv` file. Raises UserError for an unknown storage or an op without an exporter.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
    graph, x = Graph(weights), "images"
    for op in model.ops:
        if op.kind not in EXPORTERS:
            raise UserError(f"op {op.name}: {op.kind} cannot be exported to ONNX yet")
        graph.scope = op.name
        x = EXPORTERS[op.kind](Layers(graph, op, model), x)
    metadata = {
        "spec": model.spec.to_json(),
        "class_names": json.dumps(model.class_names),
        "preprocess": model.preprocess.to_json(),
        **({} if model.calibration is None else {"calibration": model.calibration.to_json()}),
    }
    image = (model.spec.in_chans, *model.spec.img_size)
    return graph.model(image, x, len(model.class_names), metadata)
