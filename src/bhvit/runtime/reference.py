"""The op program in NumPy: readable, slow, and exactly what the native engine computes.

The ops are those of `format.ops`. All floats are float32 and every operation rounds by itself, so results equal the
native ones bit for bit. Shapes: H, W tokens; C channels; grids are (H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..bits import Floats
from ..format.arithmetic import Observer, observer
from ..format.file import PackedModel
from ..format.op import Op
from ..format.ops import OPS


def run(model: PackedModel, images: Floats) -> Floats:
    """Normalised images (B, in_chans, H, W), float32 -> logits (B, classes), float32."""
    logits = [output for image in images for name, output in trace(model, image) if name == model.ops[-1].name]
    return np.stack(logits) if logits else np.zeros((0, len(model.class_names)), np.float32)


def trace(model: PackedModel, image: Floats) -> Iterator[tuple[str, Floats]]:
    """One image (in_chans, H, W) -> after each op its name and x, (H, W, C); the head gives (classes,)."""
    x = image.astype(np.float32)
    for op in model.ops:
        x = OPS[op.kind].reference(op, model.op_tensors(op), x)
        yield op.name, x


def observe(model: PackedModel, op: Op, x: Floats, observe: Observer) -> Floats:
    """x after one op, as in `trace`, telling `observe` of the op's decisions in order.

    They are: "bits" of a mixer, (H, W, C), and of a downsampling, (T, 4C); "1" and "2" of an MLP, the latter
    (T, F) as stored; "reduce", "in0" to "in2", "sign0" to "sign2" (q, k, v) and "proj" of attention, (T, C), and
    "levels", (Q, K) for each window and head.
    """
    token = observer.set(observe)
    try:
        return OPS[op.kind].reference(op, model.op_tensors(op), x)
    finally:
        observer.reset(token)
