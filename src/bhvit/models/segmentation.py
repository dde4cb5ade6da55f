"""The head of a segmentation: a decoder, then a classifier of each pixel.

From the coarsest grid up, a lateral unit of binary 1x1 products brings each stage to the decoder's channels, and the
sum of the coarser grids is upsampled to it and added. Blocks of the finest grid follow, a full-precision classifier of
its tokens, and bilinear upsampling of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..spec.model import ModelSpec
from .blocks import Block
from .fused import layers as fused
from .layers import LearnableBias, QuantLinear, make_activation, make_norm
from .quant_config import QuantConfig
from .quantizers import fake_quantize, linear_weight


class Lateral(nn.Module):
    """Binary 1x1 unit of the decoder: (B, H, W, C) -> (B, H, W, D).

    RPReLU(norm(binary linear(n + move)) + n in D channels), n = norm(x).

    Where C is a multiple of D, channels c, c + D, … of n become their mean; where D is one of C, n is repeated.
    """

    def __init__(self, channels: int, outputs: int, config: QuantConfig) -> None:
        super().__init__()
        self.outputs = outputs
        self.norm_in = make_norm(config, channels)
        self.move = LearnableBias(channels)
        self.linear = QuantLinear(channels, outputs, config)
        self.norm = make_norm(config, outputs)
        self.activation = make_activation(config, outputs)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm_in(x)
        residual = n
        if n.shape[-1] > self.outputs:
            residual = n.reshape(*n.shape[:-1], n.shape[-1] // self.outputs, self.outputs).mean(dim=-2)
        if fused.applies(self, n):
            weight = linear_weight(self.linear.weight, self.linear.quant, self.linear.weight_quantizer)
            move, config = self.move.bias, self.linear.quant
            return fused.linear_unit(n, move, weight, residual, self.norm, self.activation, config)
        y: Tensor = self.norm(self.linear(self.move(n)))
        activated: Tensor = self.activation(y + residual.repeat(1, 1, 1, self.outputs // residual.shape[-1]))
        return activated


class UpsampleAdd(nn.Module):
    """x (B, H, W, D) + coarse (B, H/2, W/2, D), upsampled by 2 (nearest)."""

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        batch, height, width, channels = coarse.shape
        spread = coarse.view(batch, height, 1, width, 1, channels).expand(-1, -1, 2, -1, 2, -1)
        return x + spread.reshape(x.shape)


class SegmentationHead(nn.Module):
    """Decoder and classifier of pixels: grids -> logits (B, classes, height, width).

    Grids are those of all stages, (B, H, W, C) each, finest first.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels, count = spec.decoder_channels, len(spec.stages)
        self.scale = spec.patch
        self.float_bits = spec.float_bits
        self.laterals = nn.ModuleList(
            Lateral(stage.channels, channels, QuantConfig.of(spec, index)) for index, stage in enumerate(spec.stages)
        )
        self.sums = nn.ModuleList(UpsampleAdd() for _ in range(count - 1))
        self.blocks = nn.ModuleList(Block(spec.decoder, 0, 0.0) for _ in range(spec.decoder_blocks))
        self.norm = make_norm(QuantConfig.of(spec, 0), channels)
        self.linear = nn.Linear(channels, spec.num_classes)

    def features(self, grids: Sequence[Tensor]) -> Tensor:
        """Return the features of the finest grid, before the norm, (B, H, W, D)."""
        y: Tensor = self.laterals[-1](grids[-1])
        for index in reversed(range(len(self.sums))):
            y = self.sums[index](self.laterals[index](grids[index]), y)
        for block in self.blocks:
            y = block(y)
        return y

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, H, W, D) -> logits of each pixel (B, classes, height, width)."""
        weight = fake_quantize(self.linear.weight, self.float_bits, (1,))
        logits = F.linear(self.norm(features), weight, self.linear.bias).permute(0, 3, 1, 2)
        return F.interpolate(logits, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        return self.classify(self.features(grids))
