"""Layers that every binary vision transformer here shares.

Grids of tokens are (B, H, W, C) throughout, channels innermost: linear layers read them as they are,
and convolutions see the same memory as a channels-last (B, C, H, W) view.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..format.arithmetic import TAPS
from ..spec.model import Branches
from ..spec.registry import ACTIVATIONS
from .batch_statistics import processes, shared_batch_norm
from .fused import grids as fused_grids
from .fused import layers as fused
from .quant_config import QuantConfig
from .quantizers import (
    conv_weight,
    linear_weight,
    make_activation_quantizer,
    make_weight_quantizer,
    quantize_activations,
)


def make_norm(config: QuantConfig, channels: int) -> nn.Module:
    """A norm of tokens (..., channels)."""
    return BatchNorm(channels) if config.norm == "batch" else nn.LayerNorm(channels)


def make_activation(config: QuantConfig, channels: int) -> Any:
    """An activation of tokens (..., channels)."""
    if config.activation in ACTIVATIONS:
        return ACTIVATIONS[config.activation](channels)
    return RPReLU(channels)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of tokens (..., C): statistics of each channel over everything else."""

    fused_role = "norm"

    def forward(self, x: Tensor) -> Tensor:
        if fused.applies(self, x):
            return fused.batch_norm(self, x)
        if self.training and processes() > 1:
            return shared_batch_norm(self, x.reshape(-1, x.shape[-1])).view(x.shape)
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


class LearnableBias(nn.Module):
    """A learned bias a channel, x + bias: the threshold of the next sign."""

    fused_role = "move"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class RPReLU(nn.Module):
    """PReLU(x - shift_in) + shift_out, slopes a channel (ReActNet, Liu et al., ECCV 2020)."""

    fused_role = "activation"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = (x - self.shift_in).reshape(-1, x.shape[-1])
        return F.prelu(centred, self.slope).view(x.shape) + self.shift_out


class LayerScale(nn.Module):
    """x * scale + shift, a channel."""

    fused_role = "scale"

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), init))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class QuantLinear(nn.Linear):
    """Linear layer without bias, (..., K) -> (..., O).

    Weights and activations are one bit or full precision, by `config`.
    """

    fused_role = "linear"

    def __init__(self, inputs: int, outputs: int, config: QuantConfig) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.quant = config
        self.weight_quantizer = make_weight_quantizer(config, outputs)
        self.activation_quantizer = make_activation_quantizer(config, inputs)

    def forward(self, x: Tensor) -> Tensor:
        signs = quantize_activations(x, self.quant, self.activation_quantizer)
        return F.linear(signs, linear_weight(self.weight, self.quant, self.weight_quantizer))


class QuantConv2d(nn.Conv2d):
    """Convolution (B, H, W, C) -> (B, H', W', O).

    Weights and activations are one bit or full precision, by `config`.

    Zeros pad the grid after the sign, so taps outside it add nothing.
    """

    fused_role = "conv"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        config: QuantConfig,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
        self.quant = config
        self.weight_quantizer = make_weight_quantizer(config, outputs)
        self.activation_quantizer = make_activation_quantizer(config, inputs)

    def forward(self, x: Tensor) -> Tensor:
        signs = quantize_activations(x, self.quant, self.activation_quantizer).permute(0, 3, 1, 2)
        weight = conv_weight(self.weight, self.quant, self.weight_quantizer)
        return self._conv_forward(signs, weight, self.bias).permute(0, 2, 3, 1)


def float_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A full-precision convolution on a (B, H, W, C) grid -> (B, H', W', O)."""
    y: Tensor = conv(x.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


def initialise(module: nn.Module) -> None:
    """Initialise a layer: truncated normal weights, zero biases.

    The published code defines this and never calls it.

    The latent weights of binary layers keep the framework's fan-in scaling: their scale does not reach
    the forward pass (a norm follows), only how fast signs flip for a given learning rate.
    """
    if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, QuantConv2d | QuantLinear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _branch_taps(widths: tuple[int, ...], kind: Branches, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the taps of each branch, (9, branches, parts, 1), and tokens averaged, (branches, 1).

    Both have the type of `like` and are made on its device: filled by Python's numbers, nothing is copied there.
    """
    index = {tap: k for k, tap in enumerate(TAPS)}
    branches = "hwc" if kind == "shift" else "hw"
    spread = like.new_zeros(len(TAPS), len(widths), len(branches), 4 if kind == "shift" else 1)
    tokens = like.new_ones(len(widths), len(branches))
    for i, w in enumerate(widths):
        reach = w // 2
        tokens[i, :2] = w
        for offset in range(-reach, reach + 1):
            spread[index[offset, 0], i, 0] = 1
            spread[index[0, offset], i, 1] = 1
        if kind == "shift":
            # Moving channels by +s along an axis reads the token at offset -s.
            for part, tap in enumerate(((-reach, 0), (reach, 0), (0, -reach), (0, reach))):
                spread[index[tap], i, 2, part] = 1
    return spread.flatten(1, 2).unsqueeze(-1), tokens.view(-1, 1)


class ShiftBranches(nn.Module):
    """The branches parallel to a block's MLP (BHViT, Gao et al., CVPR 2025).

    Together they are one cyclic 9-tap cross.

    Of kind "shift", for each width w in `widths`: the means over w neighbouring tokens along H and along W, and the
    channel shift by w // 2 (the channels in four equal parts, moved down, up, right and left), each
    with its own LayerScale. All are linear in n and shift whole channels, so their sum is a depthwise
    convolution with nine taps.

    Branches of kind "pool" (BinaryViT) have no channel shifts and take zeros for tokens outside the grid.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], kind: Branches) -> None:
        super().__init__()
        self.kind = kind
        parts = "hwc" if kind == "shift" else "hw"
        self.scales = nn.ModuleDict({f"{part}{w}": LayerScale(channels, 0.0) for w in widths for part in parts})
        self.widths = widths
        self._make_constants()

    def _make_constants(self) -> None:
        """The constants of `taps`, where the weights are.

        No buffers: those would have to be read from files, or laid out and filled after.
        """
        with torch.inference_mode(False):  # training may use what the first inference made
            self._spread, self._tokens = _branch_taps(self.widths, self.kind, next(self.parameters()).detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ShiftBranches:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._make_constants()
        return self

    def taps(self) -> tuple[Tensor, Tensor]:
        """Return the taps (9, C), in the order of `TAPS`, and the shift (C,)."""
        scales = torch.stack([module.get_parameter("scale") for module in self.scales.values()])
        shifts: list[Tensor] = [module.get_parameter("shift") for module in self.scales.values()]
        # Not stack and sum: its backward gives all of them one memory for their gradients, which whatever changes
        # gradients in place (clipping, accumulation) would then change six times.
        if self._spread.device != scales.device or self._spread.dtype != scales.dtype:
            self._make_constants()  # the weights were replaced one by one
        means = (scales / self._tokens).view(*self._spread.shape[1:3], -1)
        return (self._spread * means).sum(dim=1).flatten(1), functools.reduce(torch.add, shifts)

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        """x + the branches of n, both (B, H, W, C)."""
        taps, shift = self.taps()
        if fused.applies(self, n):
            return fused_grids.cross(x, n, taps, shift, cyclic=self.kind == "shift")
        height, width, channels = n.shape[1:]
        kernel = torch.zeros(channels, 1, 5, 5, dtype=n.dtype, device=n.device)
        for k, (row, column) in enumerate(TAPS):
            kernel[:, 0, 2 + row, 2 + column] = taps[k].to(n.dtype)
        if self.kind == "pool":
            padded = F.pad(n.permute(0, 3, 1, 2), (2, 2, 2, 2))
        elif height >= 2 and width >= 2:
            padded = F.pad(n.permute(0, 3, 1, 2), (2, 2, 2, 2), mode="circular")
        else:  # circular padding refuses to wrap around more than once
            rows = torch.arange(-2, height + 2, device=n.device) % height
            columns = torch.arange(-2, width + 2, device=n.device) % width
            padded = n[:, rows][:, :, columns].permute(0, 3, 1, 2)
        padded = padded.contiguous(memory_format=torch.channels_last)
        return x + F.conv2d(padded, kernel, shift.to(n.dtype), groups=channels).permute(0, 2, 3, 1)
