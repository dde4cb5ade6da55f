"""BHViT (Gao et al., CVPR 2025): stem, stages with downsampling between them, head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..calibration import Calibration
from ..errors import UserError
from ..image import Preprocess
from ..spec.model import ModelSpec
from .base.hub import HubModel
from .binary import binary_layers
from .blocks import BinaryDownsample, Block, FloatDownsample, Head, Stem
from .layers import initialise
from .segmentation import SegmentationHead


class BHViT(HubModel):
    """Binarised hybrid vision transformer: images (B, in_chans, H, W) -> logits (B, classes).

    With the task "segment" logits are those of each pixel, (B, classes, H, W).

    `spec` describes it whole. `class_names`, `preprocess` and `calibration` say what its outputs and inputs mean; they
    travel with checkpoints and packed files, and are None until a data set gives them.
    `drop_path` is the rate of stochastic depth at the last block; it rises to that linearly.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.class_names: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
        self.calibration: Calibration | None = None
        depth = sum(stage.depth for stage in spec.stages)
        # On the CPU whatever the default device: a model may be laid out on "meta" before its weights are read.
        rates: Iterator[float] = iter(torch.linspace(0, drop_path, depth, device="cpu").tolist())
        self.stem = Stem(spec)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(spec, index, next(rates)) for _ in range(stage.depth)))
            for index, stage in enumerate(spec.stages)
        )
        downsample = BinaryDownsample if spec.downsample == "binary" else FloatDownsample
        self.downsamples = nn.ModuleList(downsample(spec, stage) for stage in range(1, len(spec.stages)))
        self.head = SegmentationHead(spec) if spec.task == "segment" else Head(spec)
        self.apply(initialise)


def regularisation_loss(model: nn.Module) -> Tensor:
    """Regularisation R of latent weights (BHViT, Gao et al., CVPR 2025), a scalar.

    R is the mean over binary layers of mean ||w| - 1|.

    The layers are the mixers' convolutions, both MLP layers, q, k, v and the attention's output, and the layer that
    pooled keys and values come from in BinaryViT, which the paper does not know; downsampling is left out, as
    published. Layers with full-precision weights are left out too: nothing draws those to -1 and +1. A scalar.
    Raises UserError if that leaves no layer.
    """
    terms = [
        (layer.weight.abs() - 1).abs().mean()
        for name, layer in binary_layers(model)
        if not name.startswith("downsamples.")
    ]
    if not terms:
        raise UserError("no layer has binary weights, so there is nothing to regularise: set regularisation=0")
    return torch.stack(terms).mean()
