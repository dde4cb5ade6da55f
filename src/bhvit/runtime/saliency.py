"""What an answer depends on: maps over the image, without PyTorch.

Occlusion (Zeiler and Fergus, ECCV 2014) hides one part of the image after the other and runs the model: a part matters
as much as the class's log-probability falls. Attention adds up the levels that each token receives from all queries,
over heads and layers: the token importance of BHViT (Gao et al., CVPR 2025). It is not about one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..bits import Floats
from ..calibration import probabilities
from ..format.arithmetic import observer
from ..format.file import PackedModel
from ..format.op import Op
from ..format.ops import OPS

Method = Literal["occlusion", "attention"]
METHODS: tuple[Method, ...] = ("occlusion", "attention")
PARTS = 4
"""Hidden squares have an edge of 1 / PARTS of the image's shorter one, and move by half of that."""
_BATCH = 64

Trace = Callable[[Floats], list[tuple[str, Floats]]]
"""Of one image (C, H, W) -> after each op its name and x."""


def occlusion(predict: Callable[[Floats], Floats], image: Floats, label: int, parts: int = PARTS) -> Floats:
    """Map the fall of a class's log-probability where parts of an image are hidden.

    The image is (C, H, W), the map (H, W), in nats. A hidden part has the image's mean colour. Each pixel gets the mean
    over the hidden squares that cover it; rises count 0.
    """
    _, height, width = image.shape
    edge = max(1, min(height, width) // parts)
    step = max(1, edge // 2)
    boxes = [
        (slice(top, top + edge), slice(left, left + edge))
        for top in _starts(height, edge, step)
        for left in _starts(width, edge, step)
    ]
    mean = image.mean(axis=(1, 2), dtype=np.float64, keepdims=True).astype(np.float32)
    whole = _log_probability(predict(image[None]), label)[0]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for first in range(0, len(boxes), _BATCH):
        hidden = np.repeat(image[None], len(boxes[first : first + _BATCH]), axis=0)
        for picture, box in zip(hidden, boxes[first:]):
            picture[:, box[0], box[1]] = mean
        for box, value in zip(boxes[first:], _log_probability(predict(hidden), label)):
            total[box] += whole - value
            count[box] += 1
    return np.maximum(total / count, 0).astype(np.float32)


def attention(model: PackedModel, trace: Trace, image: Floats) -> Floats | None:
    """Map the attention levels that the tokens of an image receive.

    The image is (C, H, W), the map (H, W): sums over heads and layers. Each layer counts the same; a global token's
    share goes to the window that it stands for. None if the model has no attention with levels.
    """
    height, width = image.shape[1:]
    total = np.zeros((height, width))
    layers = 0
    for op, x in _inputs(model, trace(image)):
        if op.kind not in ("attention", "pooled_attention") or op.option("activations") == "float":
            continue
        grid = _received(op, model, x)
        if grid.sum() > 0:
            total += np.kron(grid / grid.sum(), np.ones((height // grid.shape[0], width // grid.shape[1])))
        layers += 1
    return total.astype(np.float32) if layers else None


def _inputs(model: PackedModel, traced: list[tuple[str, Floats]]) -> Iterator[tuple[Op, Floats]]:
    """Each op but the first with the x that it takes."""
    for op, (_, x) in zip(model.ops[1:], traced):
        yield op, x


def _received(op: Op, model: PackedModel, x: Floats) -> Floats:
    """The levels that the tokens of an attention receive: a grid that divides the image's."""
    sums: list[Floats] = []

    def note(what: str, chosen: npt.NDArray[np.generic], _: Floats) -> None:
        if what == "levels":
            sums.append(np.asarray(chosen, np.float64).sum(axis=0))

    token = observer.set(note)
    try:
        OPS[op.kind].reference(op, model.op_tensors(op), x)
    finally:
        observer.reset(token)
    a, heads = op.attributes, op.attributes["heads"]
    if op.kind == "pooled_attention":
        pooled: Floats = np.sum(sums, axis=0).reshape(a["height"] // a["key_pool"], a["width"] // a["key_pool"])
        return pooled
    window_h, window_w = a["window_h"], a["window_w"]
    down, across, length = a["height"] // window_h, a["width"] // window_w, window_h * window_w
    by_window = np.stack(sums).reshape(down * across, heads, -1).sum(axis=1)
    own = by_window[:, :length] + by_window[:, length:].sum(axis=0)[:, None] / length
    blocks = own.reshape(down, across, window_h, window_w).transpose(0, 2, 1, 3)
    return blocks.reshape(a["height"], a["width"])


def _log_probability(logits: Floats, label: int) -> npt.NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(probabilities(logits)[:, label], 1e-30)))


def _starts(length: int, edge: int, step: int) -> list[int]:
    """Where squares begin so that they cover everything and none leaves the image."""
    return sorted({*range(0, length - edge + 1, step), length - edge})
