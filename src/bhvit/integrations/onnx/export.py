"""From an op program to the bytes of an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import get_args

from ...errors import UserError, require_extra
from ...format.file import PackedModel
from ...format.program import check_graph

try:
    from .attention import attention, pooled_attention
    from .blocks import (
        downsample,
        downsample_float,
        head,
        lateral,
        mixer,
        mlp,
        pooling,
        segment,
        stem,
        upsample_add,
    )
    from .graph import Graph, WeightStorage
    from .layers import Layers
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "onnx":
        raise
    raise require_extra("onnx", "onnx") from None

WEIGHTS: tuple[str, ...] = get_args(WeightStorage)
"""How binary weights may be stored."""
EXPORTERS: Mapping[str, Callable[..., str]] = {
    "stem": stem,
    "mixer": mixer,
    "pooling": pooling,
    "mlp": mlp,
    "attention": attention,
    "pooled_attention": pooled_attention,
    "downsample": downsample,
    "downsample_float": downsample_float,
    "head": head,
    "lateral": lateral,
    "upsample_add": upsample_add,
    "segment": segment,
}
"""By kind of op: the op and the names of the values that it reads -> the name of what it writes."""


def to_onnx(model: PackedModel, weights: WeightStorage = "int8") -> bytes:
    """Return a packed model as the bytes of an ONNX model.

    It turns normalised images (batch, C, H, W) into logits (batch, classes).

    A segmentation gives logits of each pixel, (batch, classes, H, W).

    Only operators of the standard's operator set 17. Binary weights are stored as int8 with DequantizeLinear, which
    every runtime knows; as bits, eight to a byte, unpacked by operators on constants (ONNX Runtime does so once, when
    it loads the model); or as float32. Class names, preprocessing and calibration are in the model's metadata, as in a
    `.bhv` file. Raises UserError for an unknown storage or an op without an exporter.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights must be one of {', '.join(WEIGHTS)}, not {weights!r}")
    graph = Graph(weights)
    values: list[str] = []
    for op, reads in zip(model.ops, check_graph(model.ops), strict=True):
        if op.kind not in EXPORTERS:
            raise UserError(f"op {op.name}: {op.kind} cannot be exported to ONNX yet")
        graph.scope = op.name
        inputs = [values[index] for index in reads] or ["images"]
        values.append(EXPORTERS[op.kind](Layers(graph, op, model), *inputs))
    metadata = {
        "spec": model.spec.to_json(),
        "class_names": json.dumps(model.class_names),
        "preprocess": model.preprocess.to_json(),
        **({} if model.calibration is None else {"calibration": model.calibration.to_json()}),
    }
    image = (model.spec.in_chans, *model.spec.img_size)
    pixels = model.spec.img_size if model.ops[-1].kind == "segment" else ()
    return graph.model(image, values[-1], (len(model.class_names), *pixels), metadata)
