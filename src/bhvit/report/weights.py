"""What a checkpoint's binary layers hold, for the report: latent weights against -1 and +1, levels of attention."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.dataset import Dataset
from ..data.metrics import decode

REACH = 1.5
"""Latent weights are shown from -REACH to REACH; what lies outside is counted at the ends."""
BINS = 60
IMAGES = 32
"""Images over which the levels of attention are counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFindings:
    """Latent weights by stage and levels by attention layer; both empty for a full-precision model."""

    edges: npt.NDArray[np.float64]
    """Of the histograms' bins, (BINS + 1,)."""
    latent: dict[str, npt.NDArray[np.float64]]
    """By stage, the share of its binary layers' latent weights, less their channel's mean, in each bin, (BINS,)."""
    levels: dict[str, npt.NDArray[np.float64]]
    """By layer, the share of its attention matrices' elements at each level, (4,)."""


def weight_findings(checkpoint: Path, dataset: Dataset) -> WeightFindings:
    """Look into a checkpoint, and let it attend to the first images of a data set."""
    import torch

    from ..models import load_checkpoint
    from ..models.attention_quantizers import DecomposedAttention
    from ..models.layers import QuantConv2d, QuantLinear
    from ..models.quantizers import centre

    model = load_checkpoint(checkpoint)
    edges = np.linspace(-REACH, REACH, BINS + 1, dtype=np.float64)
    counts: dict[str, npt.NDArray[np.float64]] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear) and module.style.weight_bits == 1 and "stages." in name:
            latent = centre(module.weight.detach()).clamp(-REACH, REACH).numpy()
            stage = f"stage {name.split('.')[1]}"
            counts[stage] = counts.get(stage, np.zeros(BINS)) + np.histogram(latent, edges)[0]

    levels: dict[str, npt.NDArray[np.float64]] = {}

    def count(name: str, quantizer: DecomposedAttention, probabilities: torch.Tensor) -> None:
        step, offset = quantizer.step.view(-1, 1, 1), quantizer.offset.view(-1, 1, 1)
        level = (3 * probabilities / step + offset).round().clamp(0, 3).long()
        levels[name] = torch.bincount(level.flatten(), minlength=4).numpy() / level.numel()

    hooks = [
        module.register_forward_pre_hook(lambda part, inputs, name=name: count(name, part, inputs[0]))
        for name, module in model.named_modules()
        if isinstance(module, DecomposedAttention)
    ]
    if hooks and model.preprocess is not None:
        pixels = decode(dataset, model.preprocess, range(min(IMAGES, len(dataset))))
        with torch.no_grad():
            model(torch.from_numpy(model.preprocess.normalize(pixels)))
    return WeightFindings(
        edges=edges,
        latent={stage: number / number.sum() for stage, number in counts.items()},
        levels={name.removesuffix(".mixer.attention.quantizer"): share for name, share in levels.items()},
    )
