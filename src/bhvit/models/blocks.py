"""Stem, blocks, downsampling and head of BHViT (Gao et al., CVPR 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..spec.model import ModelSpec
from .fused import layers as fused
from .layers import (
    LayerScale,
    LearnableBias,
    QuantConv2d,
    QuantLinear,
    ShiftBranches,
    float_conv,
    make_activation,
    make_norm,
)
from .mixers import make_mixer
from .quant_config import QuantConfig
from .quantizers import fake_quantize

POSITION_STD = 0.02


def _position_map(grid: tuple[int, int], channels: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*grid, channels), std=POSITION_STD))


class Positioned(nn.Module):
    """A part that ends with adding its position map (H, W, C)."""

    position: nn.Parameter

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.float_bits = spec.float_bits

    def positions(self) -> Tensor:
        """The map as a packed file stores it."""
        return fake_quantize(self.position, self.float_bits, (0, 1))


def initialise_position(module: nn.Module) -> None:
    """Initialise the position map of a module, if it has one."""
    if isinstance(module, Positioned):
        nn.init.trunc_normal_(module.position, std=POSITION_STD)


class Stem(Positioned):
    """Images (B, in_chans, H, W) -> tokens (B, H/patch, W/patch, C), full precision."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        channels = spec.stages[0].channels
        padding = (spec.kernel - spec.patch) // 2
        self.conv = nn.Conv2d(spec.in_chans, channels, spec.kernel, spec.patch, padding)
        self.norm = make_norm(QuantConfig.of(spec, 0), channels)
        self.activation = nn.GELU() if spec.stem_activation == "gelu" else nn.Identity()
        self.position = _position_map(spec.grid(0), channels)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).permute(0, 2, 3, 1)
        return self.activation(self.norm(x)) + self.positions()


class Mlp(nn.Module):
    """The MLP of a block (BHViT, Gao et al., CVPR 2025): n (B, H, W, C) -> the same.

    LayerScale(RPReLU(norm(binary linear(u + move)) + mean_r(u))), with
    u = RPReLU(norm(binary linear(n + move)) + tile_r(n)) of r*C hidden channels.
    """

    def __init__(self, channels: int, hidden: int, config: QuantConfig) -> None:
        super().__init__()
        self.expansion = hidden // channels
        self.move1 = LearnableBias(channels)
        self.linear1 = QuantLinear(channels, hidden, config)
        self.norm1 = make_norm(config, hidden)
        self.activation1 = make_activation(config, hidden)
        self.move2 = LearnableBias(hidden)
        self.linear2 = QuantLinear(hidden, channels, config)
        self.norm2 = make_norm(config, channels)
        self.activation2 = make_activation(config, channels)
        self.scale = LayerScale(channels, 0.1)

    def forward(self, n: Tensor) -> Tensor:
        if fused.applies(self, n) and fused.fits_mlp(self.linear1.out_features, n.shape[-1]):
            return fused.mlp(self, n)
        tiled = n.repeat(1, 1, 1, self.expansion)
        u = self.activation1(self.norm1(self.linear1(self.move1(n))) + tiled)
        means = u.view(*n.shape, self.expansion).mean(dim=-1)
        v = self.activation2(self.norm2(self.linear2(self.move2(u))) + means)
        return self.scale(v)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + MLP(norm(x)) + the shift branches of norm(x)."""

    def __init__(self, spec: ModelSpec, stage: int, drop_path: float) -> None:
        super().__init__()
        config, channels = QuantConfig.of(spec, stage), spec.stages[stage].channels
        self.mixer_norm = make_norm(config, channels)
        self.mixer = make_mixer(spec, stage)
        self.mlp_norm = make_norm(config, channels)
        self.mlp = Mlp(channels, spec.stages[stage].hidden, config)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shift = ShiftBranches(channels, spec.shifts, spec.branches) if spec.shifts else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        n = self.mlp_norm(x)
        x = x + self.drop_path(self.mlp(n))
        return x if self.shift is None else self.shift(x, n)


class BinaryDownsample(Positioned):
    """Binary downsampling: (B, H, W, C) -> (B, H/2, W/2, O).

    RPReLU(norm(binary 2x2 convolution of stride 2) + average pooling) + position map.
    """

    def __init__(self, spec: ModelSpec, stage: int) -> None:
        super().__init__(spec)
        channels, outputs = spec.stages[stage - 1].channels, spec.stages[stage].channels
        config = QuantConfig.of(spec, stage)
        self.repeats = outputs // channels
        self.norm_in = make_norm(config, channels)
        self.move = LearnableBias(channels)
        self.conv = QuantConv2d(channels, outputs, 2, config, stride=2, bias=False)
        self.norm = make_norm(config, outputs)
        self.activation = make_activation(config, outputs)
        self.position = _position_map(spec.grid(stage), outputs)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm_in(x)
        pooled = F.avg_pool2d(n.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        if fused.applies(self, n):
            return self._fused(n, pooled) + self.positions()
        y = self.conv(self.move(n))
        return self.activation(self.norm(y) + pooled.repeat(1, 1, 1, self.repeats)) + self.positions()

    def _fused(self, n: Tensor, pooled: Tensor) -> Tensor:
        """Patches do not overlap, so that the convolution is a linear layer of them."""
        batch, height, width, channels = n.shape
        patches = n.view(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 3).flatten(3)
        move, config = self.move.bias.repeat(4), self.conv.quant
        weight = fused.conv_weight(self.conv.weight, config).permute(0, 2, 3, 1).flatten(1)
        return fused.linear_unit(patches, move, weight, pooled, self.norm, self.activation, config)


class FloatDownsample(Positioned):
    """(B, H, W, C) -> (B, H/2, W/2, O) in full precision: the † variants."""

    def __init__(self, spec: ModelSpec, stage: int) -> None:
        super().__init__(spec)
        channels, outputs = spec.stages[stage - 1].channels, spec.stages[stage].channels
        config = QuantConfig.of(spec, stage)
        self.norm_in = make_norm(config, channels)
        self.conv = nn.Conv2d(channels, outputs, 2, stride=2, bias=False)
        self.norm = make_norm(config, outputs)
        self.position = _position_map(spec.grid(stage), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(float_conv(self.conv, self.norm_in(x))) + self.positions()


class Head(nn.Module):
    """(B, H, W, C) -> logits (B, classes): norm, mean over tokens, linear."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.stages[-1].channels
        self.norm = make_norm(QuantConfig.of(spec, len(spec.stages) - 1), channels)
        self.float_bits = spec.float_bits
        self.pooling = "avg"
        self.linear: nn.Linear | nn.Identity = nn.Linear(channels, spec.num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) -> features (B, C), or (B, H, W, C) without pooling."""
        x = self.norm(x)
        return x.mean(dim=(1, 2)) if self.pooling else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        if self.float_bits == 8 and isinstance(self.linear, nn.Linear):
            return F.linear(x, fake_quantize(self.linear.weight, 8, (1,)), self.linear.bias)
        logits: Tensor = self.linear(x)
        return logits
