"""The op program in NumPy: readable, slow, and exactly what the native engine computes.

The ops are those of `format.ops`. All floats are float32 and every operation rounds by itself, so results equal the
native ones bit for bit. Shapes: H, W tokens; C channels; grids are (H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..bits import Floats
from ..format.arithmetic import Observer, observer
from ..format.file import PackedModel
from ..format.op import Op
from ..format.ops import OPS
from ..format.program import check_graph


def run(model: PackedModel, images: Floats) -> Floats:
    """Compute logits (B, classes) of normalised float32 images (B, in_chans, H, W).

    A segmentation gives those of pixels, (B, classes, H, W).
    """
    logits = [output for image in images for name, output in trace(model, image) if name == model.ops[-1].name]
    if logits:
        return np.stack(logits)
    pixels = model.ops[-1].output()[:2] if model.ops[-1].kind == "segment" else ()
    return np.zeros((0, len(model.class_names), *pixels), np.float32)


def trace(model: PackedModel, image: Floats) -> Iterator[tuple[str, Floats]]:
    """Run one image (in_chans, H, W); yield each op's name and output.

    Outputs are (H, W, C), those of a head (classes,), or of pixels (classes, H, W).
    """
    yield from run_ops(model, image, lambda op, inputs: OPS[op.kind].reference(op, model.op_tensors(op), *inputs))


def run_ops(
    model: PackedModel, image: Floats, run_op: Callable[[Op, list[Floats]], Floats]
) -> Iterator[tuple[str, Floats]]:
    """Yield each op's name and what `run_op` makes of the values it reads.

    Values are dropped after the last op that reads them.
    """
    reads = check_graph(model.ops)
    last_read = {source: index for index, sources in enumerate(reads) for source in sources}
    values: dict[int, Floats] = {}
    for index, (op, sources) in enumerate(zip(model.ops, reads)):
        inputs = [values[source] for source in sources] or [image.astype(np.float32)]
        values[index] = run_op(op, inputs)
        for source in sources:
            if last_read[source] == index:
                del values[source]
        yield op.name, values[index]


def observe(model: PackedModel, op: Op, inputs: Sequence[Floats], observe: Observer) -> Floats:
    """Run one op as `trace` does, and tell `observe` the op's decisions in order.

    They are: "bits" of a mixer, (H, W, C), of a downsampling, (T, 4C), and of a lateral unit, (T, C); "1" and "2" of an
    MLP, the latter (T, F) as stored; "reduce", "in0" to "in2", "sign0" to "sign2" (q, k, v) and "proj" of attention,
    (T, C), and "levels", (Q, K) for each window and head.
    """
    token = observer.set(observe)
    try:
        return OPS[op.kind].reference(op, model.op_tensors(op), *inputs)
    finally:
        observer.reset(token)
