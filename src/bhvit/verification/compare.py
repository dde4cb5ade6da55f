"""Three executions of one model side by side: PyTorch, the NumPy reference, the native engine.

Native and reference run the same file and must be equal bit for bit. PyTorch runs the checkpoint: its
float sums are rounded in another order and the packed file stores a few numbers in float16, so values
differ by rounding; where such a value lies at the threshold of a sign, a bit flips and whatever follows
differs by more. Each execution is fed by its own stream, so what is listed for an op includes all that
came before it; `flips` feeds both the same input and counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import Dataset
from ..data.metrics import Floats, Metrics, Predict, Progress, agreement, decode, metrics, predict_all
from ..format import file as bhv_file
from ..models import BHViT, trace
from ..packing.lowering import lowered
from ..runtime import Session, reference
from .flips import OpFlips, count_flips, total
from .predictors import open_pair, torch_predict

BEYOND_ROUNDING = 2e-3
"""Values differ beyond rounding when they are further apart than this fraction of the value or of the
op's root mean square, whichever is larger. Four roundings to float16 are 4 * 2^-11 = 2e-3."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpDifference:
    """PyTorch and native after one op, over all traced images."""

    name: str
    fraction: float
    """Of the elements that differ beyond rounding, 0 to 1."""
    largest: float
    """Largest absolute difference."""
    relative: float
    """Root mean square of the difference over that of the values."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traces:
    """A few images, followed op by op."""

    reference_parts_at: str | None
    """The first op after which native and reference are not equal, None if they always are."""
    ops: tuple[OpDifference, ...]
    flips: tuple[OpFlips, ...]
    """Of each op, over all traced images: what PyTorch chose otherwise on the same input."""
    traced: int
    """Images that were followed op by op."""

    @property
    def parts_at(self) -> OpDifference | None:
        """The first op after which PyTorch and native differ beyond rounding somewhere."""
        return next((op for op in self.ops if op.fraction > 0), None)

    @property
    def unexplained(self) -> OpFlips | None:
        """The first op that differs on equal input without a decision at rounding distance."""
        return next((op for op in self.flips if not op.explained), None)

    @property
    def sound(self) -> bool:
        """Whether native equals the reference, and every difference from PyTorch is explained."""
        return self.reference_parts_at is None and self.unexplained is None

    def traces_to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "traced_images": self.traced,
            "native_equals_reference": self.reference_parts_at is None,
            "reference_parts_at": self.reference_parts_at,
            "parts_at": self.parts_at.name if self.parts_at else None,
            "ops": [dataclasses.asdict(op) for op in self.ops],
            "flips": [dataclasses.asdict(op) for op in self.flips],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Traces):
    """What `compare` found."""

    torch: Metrics
    native: Metrics
    labelled: bool
    """Whether the images' classes are the model's, so that accuracies mean something."""

    @property
    def agreement(self) -> float:
        """Fraction of the images on which PyTorch and native have the same most likely class."""
        return agreement(self.torch, self.native)

    @property
    def logit_difference(self) -> float:
        """Largest absolute difference of a logit."""
        return float(np.abs(self.torch.logits - self.native.logits).max())

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "images": len(self.torch.labels),
            "agreement": self.agreement,
            "torch_top1": self.torch.top1 if self.labelled else None,
            "native_top1": self.native.top1 if self.labelled else None,
            "max_logit_difference": self.logit_difference,
            **self.traces_to_dict(),
        }


def compare(
    checkpoint: Path,
    packed: Path,
    dataset: Dataset,
    *,
    threads: int = 1,
    isa: str = "auto",
    max_memory: int | None = None,
    traced: int = 4,
    labelled: bool = True,
    progress: Callable[[str], Progress] | None = None,
) -> Comparison:
    """Run all images through PyTorch and native, and `traced` of them op by op.

    Without `labelled` only the pictures count: their classes need not be the model's, and the metrics' accuracies mean
    nothing. `progress` makes a progress display for a named part. Raises UserError if the two files do not
    belong together, an image is damaged or the packed file needs more than `max_memory` bytes.
    """
    model, file = open_pair(checkpoint, packed)
    session = Session(packed, threads=threads, isa=isa, max_memory=max_memory)
    show = progress or (lambda what: None)  # type: ignore[return-value]
    pixels = None
    if len(dataset) * int(np.prod(file.spec.img_size)) * file.spec.in_chans <= 1 << 28:
        pixels = decode(dataset, file.preprocess, range(len(dataset)))
    labels, names = dataset.labels, dataset.class_names
    if not labelled:
        labels, names = np.zeros_like(labels), file.class_names

    def measure(who: str, predict: Predict) -> Metrics:
        logits, seconds = predict_all(predict, dataset, file.preprocess, pixels=pixels, progress=show(who))
        return metrics(logits, labels, names, seconds=seconds)

    native, by_torch = measure("native", session), measure("PyTorch", torch_predict(model))
    images = file.preprocess.normalize(decode(dataset, file.preprocess, range(min(traced, len(dataset)))))
    followed = follow(model, file, session, images)
    return Comparison(torch=by_torch, native=native, labelled=labelled, **vars(followed))


def follow(model: BHViT, file: bhv_file.PackedModel, session: Session, images: Floats) -> Traces:
    """Follow normalised images (B, C, H, W) through all three executions op by op."""
    parts_at, ops = _by_op(model, file, session, images)
    packed_as = lowered(model)
    by_image = [count_flips(packed_as, file, image) for image in images]
    flips = tuple(total(of_op, of_op[0].name) for of_op in zip(*by_image, strict=True))
    return Traces(reference_parts_at=parts_at, ops=ops, flips=flips, traced=len(images))


def _by_op(
    model: BHViT, file: bhv_file.PackedModel, session: Session, images: Floats
) -> tuple[str | None, tuple[OpDifference, ...]]:
    expected = {name: tensor.float().numpy() for name, tensor in trace(model, torch.from_numpy(images)).items()}
    natives: dict[str, list[Floats]] = {op.name: [] for op in file.ops}
    order = {op.name: number for number, op in enumerate(file.ops)}
    unequal: set[str] = set()
    for image in images:
        for (name, native), (_, exact) in zip(session.program.trace(image), reference.trace(file, image), strict=True):
            natives[name].append(native)
            if not np.array_equal(native, exact):
                unequal.add(name)
    ops = tuple(_difference(name, expected[name], np.stack(values)) for name, values in natives.items())
    return min(unequal, key=order.__getitem__, default=None), ops


def _difference(name: str, expected: Floats, native: Floats) -> OpDifference:
    apart = np.abs(expected.reshape(native.shape) - native)
    rms = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    beyond = apart > BEYOND_ROUNDING * np.maximum(np.abs(expected.reshape(native.shape)), rms)
    relative = float(np.sqrt(np.mean(np.square(apart, dtype=np.float64)))) / max(rms, 1e-30)
    return OpDifference(name=name, fraction=float(beyond.mean()), largest=float(apart.max()), relative=relative)
