"""Compare a segmentation in PyTorch with its packed file: labels, and op by op."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.masks import MaskedDataset
from ..data.segmentation_metrics import SegmentationMetrics, confusion
from ..runtime import Session
from .compare import Traces, follow
from .predictors import labels_of, open_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskComparison(Traces):
    """What `compare_masks` found."""

    torch: SegmentationMetrics
    native: SegmentationMetrics
    agreement: float
    """Fraction of all pixels, at the model's size, that both give the same class."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "images": self.torch.images,
            "agreement": self.agreement,
            "torch_miou": self.torch.miou,
            "native_miou": self.native.miou,
            **self.traces_to_dict(),
        }


def compare_masks(
    checkpoint: Path,
    packed: Path,
    dataset: MaskedDataset,
    *,
    threads: int = 1,
    isa: str = "auto",
    max_memory: int | None = None,
    traced: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> MaskComparison:
    """Label all images by PyTorch and by the packed file.

    The first `traced` are followed op by op.

    Masks are compared at the model's size. Raises UserError if the two files do not belong together, or
    the packed file needs more than `max_memory` bytes.
    """
    model, file = open_pair(checkpoint, packed)
    session = Session(packed, threads=threads, isa=isa, max_memory=max_memory)
    classes = len(dataset.class_names)
    counts = np.zeros((2, classes, classes), np.int64)
    same = pixels = 0
    followed = []
    for index in range(len(dataset)):
        both = dataset.pixels(index, file.preprocess)
        images, mask = file.preprocess.normalize(both[None, :, :, :-1]), both[:, :, -1]
        native = session.program.segment(images)[0]
        with torch.inference_mode():
            ours = labels_of(model(torch.from_numpy(images))[0].numpy())
        same, pixels = same + int((ours == native).sum()), pixels + native.size
        counts += np.stack([confusion(mask, found, classes) for found in (ours, native)])
        if index < traced:
            followed.append(images[0])
        if progress is not None:
            progress(index + 1, len(dataset))
    by_torch, by_native = (
        SegmentationMetrics(class_names=dataset.class_names, confusion=count, images=len(dataset)) for count in counts
    )
    traces = follow(model, file, session, np.stack(followed))
    return MaskComparison(torch=by_torch, native=by_native, agreement=same / pixels, **vars(traces))
