"""Statistics of a checkpoint's binary layers for the report: latent weights, attention levels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.dataset import Dataset
from ..data.metrics import decode
from ..spec.model import ATTENTION_LEVELS

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
    """By stage, the share of its binary layers' latent weights, as their signs are taken, in each bin, (BINS,)."""
    levels: dict[str, npt.NDArray[np.float64]]
    """By layer, the share of its attention matrices' elements at each level, (levels + 1,)."""


def weight_findings(checkpoint: Path, dataset: Dataset) -> WeightFindings:
    """Collect statistics of a checkpoint's weights, and of attention to some images of `dataset`."""
    import torch

    from ..models import load_checkpoint
    from ..models.attention_quantizers import DecomposedAttention
    from ..models.binary import binary_layers, latent_weight
    from ..verification.flips import attention_levels

    model = load_checkpoint(checkpoint)
    edges = np.linspace(-REACH, REACH, BINS + 1, dtype=np.float64)
    counts: dict[str, npt.NDArray[np.float64]] = {}
    for name, layer in binary_layers(model):
        if name.startswith("stages."):
            latent = latent_weight(layer).detach().clamp(-REACH, REACH).numpy()
            stage = f"stage {name.split('.')[1]}"
            counts[stage] = counts.get(stage, np.zeros(BINS)) + np.histogram(latent, edges)[0]

    levels: dict[str, npt.NDArray[np.float64]] = {}

    def count(name: str, quantizer: DecomposedAttention, probabilities: torch.Tensor) -> None:
        level = attention_levels(quantizer, probabilities).long()
        levels[name] = torch.bincount(level.flatten(), minlength=ATTENTION_LEVELS + 1).numpy() / level.numel()

    hooks = [
        module.register_forward_pre_hook(lambda part, inputs, name=name: count(name, part, inputs[0]))
        for name, module in model.named_modules()
        if isinstance(module, DecomposedAttention)
    ]
    if hooks and model.preprocess is not None:
        pixels = decode(dataset, model.preprocess, range(min(IMAGES, len(dataset))))
        pixels = pixels[..., : model.preprocess.channels]  # without masks
        with torch.no_grad():
            model(torch.from_numpy(model.preprocess.normalize(pixels)))
    return WeightFindings(
        edges=edges,
        latent={stage: number / number.sum() for stage, number in counts.items()},
        levels={name.removesuffix(".mixer.attention.quantizer"): share for name, share in levels.items()},
    )
