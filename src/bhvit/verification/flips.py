"""Explain where a packed file and its model part: decisions that rounding changed.

They fell the other way because floats are rounded in another order.

The arithmetic between two signs differs by rounding alone, so on the same input PyTorch and the packed file may choose
differently only where a value lies at rounding distance from its threshold. One such choice moves what follows by more;
later choices of the same op may then differ at any distance. Here every op is run by both on the same input,
and every sign and every level of an attention matrix is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data.metrics import Floats
from ..format import file as bhv_file
from ..format.op import Op
from ..models import BHViT
from ..models.attention_quantizers import DecomposedAttention
from ..models.layers import LearnableBias
from ..models.segmentation import SegmentationHead
from ..runtime import reference
from ..spec.model import ATTENTION_LEVELS

ROUNDING = 1e-5
"""A value is at rounding distance from its threshold when that is less than this fraction of the values' root mean
square: about 100 units in the last place of float32."""
OUTPUT = {"float32": 1e-4, "float16": 2e-3, "int8": 4e-3}
"""Outputs on equal input differ by more than rounding when they are further apart than this fraction of the largest:
by the least exact type in which a tensor of the op is stored otherwise than the model computes it. Rounding to float16
is up to 2^-11 a number, to int8 up to 1/254 of a channel's largest."""

Decisions = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpFlips:
    """PyTorch and the packed file in one op, fed the same input."""

    name: str
    decisions: int
    """Signs and levels that the op chose."""
    flipped: int
    """Those at rounding distance that fell the other way."""
    followed: int
    """Those farther away that differ, after one that flipped in the same op."""
    farthest: float
    """Largest distance of a flipped one from its threshold, as a fraction of the values' root mean square."""
    explained: bool
    """No decision and no output differs without a flipped decision before it."""


def count_flips(model: BHViT, file: bhv_file.PackedModel, image: Floats) -> list[OpFlips]:
    """Follow one normalised image (in_chans, H, W) through each op in both engines."""
    found = []

    def run(op: Op, inputs: list[Floats]) -> Floats:
        chosen: dict[str, list[npt.NDArray[Any]]] = {}
        distances: dict[str, list[Floats]] = {}

        def note(
            what: str, choice: npt.NDArray[Any], distance: Floats, chosen: Any = chosen, distances: Any = distances
        ) -> None:
            chosen.setdefault(what, []).append(choice)
            distances.setdefault(what, []).append(np.abs(distance))

        y = reference.observe(file, op, inputs, note)
        with torch.inference_mode():
            expected, theirs = _torch(model, op, [torch.from_numpy(x) for x in inputs])
        beyond = np.abs(expected - y).max() > _tolerance(model, file, op) * np.abs(expected).max()
        found.append(_compare(op, chosen, distances, theirs, bool(beyond)))
        return y

    for _ in reference.run_ops(file, image, run):
        pass
    return found


def _tolerance(model: BHViT, file: bhv_file.PackedModel, op: Op) -> float:
    types = {file.tensors[f"{op.name}.{name}"].dtype.name for name in op.shapes()}
    if model.spec.float_bits == 8:
        types.discard("int8")  # the model rounds so, too
    return max(tolerance for name, tolerance in OUTPUT.items() if name in types | {"float32"})


def _compare(
    op: Op,
    chosen: dict[str, list[npt.NDArray[Any]]],
    distances: dict[str, list[Floats]],
    theirs: Decisions,
    beyond: bool,
) -> OpFlips:
    decisions = flipped = followed = 0
    farthest, explained = 0.0, True
    for what, parts in chosen.items():
        ours, distance = (_as_torch(op, what, values) for values in (parts, distances[what]))
        differ = ours != theirs[what].reshape(ours.shape)
        scale = float(np.sqrt(np.mean(np.square(distance, dtype=np.float64)))) or 1.0
        near = differ & (distance <= ROUNDING * scale)
        decisions, flipped = decisions + differ.size, flipped + int(near.sum())
        farthest = max(farthest, float(distance[near].max(initial=0)) / scale)
        others = int((differ & ~near).sum())
        followed += others
        explained &= others == 0 or flipped > 0
    explained &= not beyond or flipped > 0
    return OpFlips(
        name=op.name, decisions=decisions, flipped=flipped, followed=followed, farthest=farthest, explained=explained
    )


def total(flips: Iterable[OpFlips], name: str = "total") -> OpFlips:
    """The sum of several."""
    flips = list(flips)
    return OpFlips(
        name=name,
        decisions=sum(op.decisions for op in flips),
        flipped=sum(op.flipped for op in flips),
        followed=sum(op.followed for op in flips),
        farthest=max((op.farthest for op in flips), default=0.0),
        explained=all(op.explained for op in flips),
    )


def run_op(model: BHViT, name: str, x: Tensor, *others: Tensor) -> Tensor:
    """Run the part of `model` behind the op `name` on x, (B, H, W, C).

    The stem takes images, (B, C, H, W).

    `others` are further values that the op reads.
    """
    if name == "head" and isinstance(model.head, SegmentationHead):
        return model.head.classify(x)
    if not name.startswith(("stages.", "head.blocks.")):
        y: Tensor = model.get_submodule(name)(x, *others)
        return y
    block: Any = model.get_submodule(name.rpartition(".")[0])
    if name.endswith(".mixer"):
        return x + block.mixer(block.mixer_norm(x))
    n = block.mlp_norm(x)
    y = x + block.mlp(n)
    return y if block.shift is None else block.shift(y, n)


def _torch(model: BHViT, op: Op, inputs: list[Tensor]) -> tuple[Floats, Decisions]:
    """An op of `model` on its inputs, (H, W, C), and the decisions it took, by the names of `reference.observe`."""
    module = model.get_submodule(op.name)
    seen: dict[str, Tensor] = {}
    handles = []
    for path, part in module.named_modules():
        if isinstance(part, LearnableBias):
            handles.append(part.register_forward_hook(lambda _m, _i, output, path=path: seen.update({path: output})))
        elif path == "attention.quantizer" and not isinstance(part, nn.Identity):
            handles.append(
                part.register_forward_pre_hook(lambda m, inputs: seen.update(levels=attention_levels(m, inputs[0])))
            )
    try:
        y = run_op(model, op.name, *(x[None] for x in inputs))[0]
    finally:
        for handle in handles:
            handle.remove()
    return y.numpy(), {
        _NAMES.get(path, path): value.numpy() if path == "levels" else value.numpy() >= 0
        for path, value in seen.items()
    }


_NAMES = {
    "move": "bits",
    "move1": "1",
    "move2": "2",
    "reduction.move": "reduce",
    "output.move": "proj",
    **{f"attention.{role}.move": f"in{p}" for p, role in enumerate(("query", "key", "value"))},
    **{f"attention.{role}.threshold": f"sign{p}" for p, role in enumerate(("query", "key", "value"))},
}


def attention_levels(quantizer: nn.Module, probabilities: Tensor) -> Tensor:
    """Return the level that a quantiser gives each attention probability, any shape."""
    if isinstance(quantizer, DecomposedAttention):
        step, offset = quantizer.step.view(-1, 1, 1), quantizer.offset.view(-1, 1, 1)
        return (ATTENTION_LEVELS * probabilities / step + offset).round().clamp(0, ATTENTION_LEVELS)
    scale = quantizer.get_parameter("scale")
    return (probabilities / scale).round().clamp(0, 1)


def _as_torch(op: Op, what: str, parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Decisions of the reference in the order of the model's tensors."""
    a, values = op.attributes, parts[0]
    height, width, channels = a["height"], a["width"], a["channels"]
    if what == "levels":
        return np.stack(parts)
    if op.kind == "downsample":  # patches of (row, column, channel)
        patches = values.reshape(height // 2, width // 2, 2, 2, channels)
        return patches.transpose(0, 2, 1, 3, 4).reshape(height, width, channels)
    if op.kind == "mlp" and what == "2":  # hidden (i, c) is channel r*c + i
        return values.reshape(len(values), -1, channels).transpose(0, 2, 1)
    if op.kind != "attention":
        return values
    windows = list(_windows(op))
    if what == "proj":  # rows are in the order of the windows
        grid = np.empty((height * width, channels), values.dtype)
        grid[np.concatenate(windows)] = values
        return grid
    length = len(windows[0])
    everywhere = values[len(windows) * length :]  # the global tokens, which each window of the model has its own of
    return np.stack([np.concatenate([values[w * length : (w + 1) * length], everywhere]) for w in range(len(windows))])


def _windows(op: Op) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of the tokens of each window, row-major."""
    a = op.attributes
    numbers = np.arange(a["height"] * a["width"]).reshape(a["height"], a["width"])
    for row in range(0, a["height"], a["window_h"]):
        for column in range(0, a["width"], a["window_w"]):
            yield numbers[row : row + a["window_h"], column : column + a["window_w"]].reshape(-1)
