"""The network: stem, blocks, downsampling and head of BHViT (Gao et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..errors import UserError
from ..image import Preprocess
from ..spec.model import ModelSpec
from ..spec.registry import MIXERS
from .base.hub import HubModel
from .binary import binary_layers
from .fused import layers as fused
from .layers import LayerScale, Move, QuantConv2d, QuantLinear, ShiftBranches, Style, float_conv, initialise
from .mixers import ConvMixer, PooledAttention, PoolMixer, WindowAttention
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
    """Draw the position map of a module anew, if it has one."""
    if isinstance(module, Positioned):
        nn.init.trunc_normal_(module.position, std=POSITION_STD)


class Stem(Positioned):
    """Images (B, in_chans, H, W) -> tokens (B, H/patch, W/patch, C), full precision."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        channels = spec.stages[0].channels
        self.conv = nn.Conv2d(spec.in_chans, channels, spec.patch, spec.patch)
        self.norm = Style.of(spec, 0).make_norm(channels)
        self.activation = nn.GELU() if spec.stem_activation == "gelu" else nn.Identity()
        self.position = _position_map(spec.grid(0), channels)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).permute(0, 2, 3, 1)
        return self.activation(self.norm(x)) + self.positions()


class Mlp(nn.Module):
    """n (B, H, W, C) -> LayerScale(RPReLU(norm(binary linear(u + move)) + mean_r(u))), with
    u = RPReLU(norm(binary linear(n + move)) + tile_r(n)) of r*C hidden channels (BHViT, Gao et al., CVPR 2025)."""

    def __init__(self, channels: int, hidden: int, style: Style) -> None:
        super().__init__()
        self.expansion = hidden // channels
        self.move1 = Move(channels)
        self.linear1 = QuantLinear(channels, hidden, style)
        self.norm1 = style.make_norm(hidden)
        self.activation1 = style.make_activation(hidden)
        self.move2 = Move(hidden)
        self.linear2 = QuantLinear(hidden, channels, style)
        self.norm2 = style.make_norm(channels)
        self.activation2 = style.make_activation(channels)
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
        style, channels = Style.of(spec, stage), spec.stages[stage].channels
        self.mixer_norm = style.make_norm(channels)
        self.mixer = _make_mixer(spec, stage)
        self.mlp_norm = style.make_norm(channels)
        self.mlp = Mlp(channels, spec.stages[stage].hidden, style)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shift = ShiftBranches(channels, spec.shifts, spec.branches) if spec.shifts else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        n = self.mlp_norm(x)
        x = x + self.drop_path(self.mlp(n))
        return x if self.shift is None else self.shift(x, n)


def _make_mixer(spec: ModelSpec, stage: int) -> nn.Module:
    if spec.stages[stage].mixer in MIXERS:
        mixer: nn.Module = MIXERS[spec.stages[stage].mixer](spec, stage)
        return mixer
    settings, style = spec.stages[stage], Style.of(spec, stage)
    channels, heads = settings.channels, settings.heads
    if settings.mixer == "conv":
        return ConvMixer(channels, style)
    if settings.mixer == "pooling":
        return PoolMixer(channels, style)
    if settings.mixer == "attention":
        return WindowAttention(channels, heads, spec.window(stage), spec.attention, style)
    return PooledAttention(channels, heads, settings.key_pool, spec.attention, style)


class BinaryDownsample(Positioned):
    """(B, H, W, C) -> (B, H/2, W/2, O): binary 2x2 stride-2 convolution beside average pooling."""

    def __init__(self, spec: ModelSpec, stage: int) -> None:
        super().__init__(spec)
        channels, outputs = spec.stages[stage - 1].channels, spec.stages[stage].channels
        style = Style.of(spec, stage)
        self.repeats = outputs // channels
        self.norm_in = style.make_norm(channels)
        self.move = Move(channels)
        self.conv = QuantConv2d(channels, outputs, 2, style, stride=2, bias=False)
        self.norm = style.make_norm(outputs)
        self.activation = style.make_activation(outputs)
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
        move, style = self.move.bias.repeat(4), self.conv.style
        weight = style.conv_weight(self.conv.weight, fuse=True).permute(0, 2, 3, 1).flatten(1)
        return fused.linear_unit(patches, move, weight, pooled, self.norm, self.activation, style)


class FloatDownsample(Positioned):
    """(B, H, W, C) -> (B, H/2, W/2, O) in full precision: the † variants."""

    def __init__(self, spec: ModelSpec, stage: int) -> None:
        super().__init__(spec)
        channels, outputs = spec.stages[stage - 1].channels, spec.stages[stage].channels
        style = Style.of(spec, stage)
        self.norm_in = style.make_norm(channels)
        self.conv = nn.Conv2d(channels, outputs, 2, stride=2, bias=False)
        self.norm = style.make_norm(outputs)
        self.position = _position_map(spec.grid(stage), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(float_conv(self.conv, self.norm_in(x))) + self.positions()


class Head(nn.Module):
    """(B, H, W, C) -> logits (B, classes): norm, mean over tokens, linear."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = spec.stages[-1].channels
        self.norm = Style.of(spec, len(spec.stages) - 1).make_norm(channels)
        self.float_bits = spec.float_bits
        self.pooling = "avg"
        self.linear: nn.Linear | nn.Identity = nn.Linear(channels, spec.num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) -> what the classifier takes: (B, C), or (B, H, W, C) if `pooling` is empty."""
        x = self.norm(x)
        return x.mean(dim=(1, 2)) if self.pooling else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        if self.float_bits == 8 and isinstance(self.linear, nn.Linear):
            return F.linear(x, fake_quantize(self.linear.weight, 8, (1,)), self.linear.bias)
        logits: Tensor = self.linear(x)
        return logits


class BHViT(HubModel):
    """Binarised hybrid vision transformer: images (B, in_chans, H, W) -> logits (B, classes).

    `spec` describes it whole. `class_names` and `preprocess` say what its outputs and inputs mean; they
    travel with checkpoints and packed files, and are None until a data set gives them.
    `drop_path` is the rate of stochastic depth at the last block; it rises to that linearly.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.class_names: tuple[str, ...] | None = None
        self.preprocess: Preprocess | None = None
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
        self.head = Head(spec)
        self.apply(initialise)


def regularisation_loss(model: nn.Module) -> Tensor:
    """R = mean over binary layers of mean ||w| - 1| of their latent weights (BHViT, Gao et al., CVPR 2025).

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
