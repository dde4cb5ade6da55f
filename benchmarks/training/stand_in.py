"""The published way of computing a training step, on our models' weights.

Each operation is a pass of its own.

A stand-in for the published code where that is not at hand, from the written description of what it computes: tokens
are (B, N, C) for linear layers and are copied to (B, C, H, W) for whatever looks at neighbours; norms see
(B, C, N); residuals are concatenated, shifts are rolls, each of the six branches is its own. Gradients are PyTorch's,
but for the quantisers, which are formulas of the paper. `throughput.py` checks that loss and gradients are ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bhvit.models.blocks import BinaryDownsample, Block, Mlp
from bhvit.models.mixers import ConvMixer, QuantAttention, ResidualUnit, WindowAttention
from bhvit.models.network import BHViT


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        rising = ((x >= -1) & (x <= 0)).to(x.dtype) * (2 + 2 * x)
        falling = ((x > 0) & (x <= 1)).to(x.dtype) * (2 - 2 * x)
        return (rising + falling) * grad


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        level = torch.round(x)
        ctx.save_for_backward(level)
        return torch.clamp(level, 0, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (level,) = ctx.saved_tensors
        return grad * ((level > 0) & (level < 3))


def binary(weight: Tensor) -> Tensor:
    """Binarise weights: mean |w| of each output channel times centred signs.

    Gradients are straight through in [-1, 1].
    """
    axes = tuple(range(1, weight.ndim))
    scale = weight.abs().mean(dim=axes, keepdim=True).detach()
    centred = weight - weight.mean(dim=axes, keepdim=True)
    hard = scale * torch.where(centred >= 0, torch.ones_like(centred), -torch.ones_like(centred))
    clipped = torch.clamp(centred, -1.0, 1.0)
    return hard.detach() - clipped.detach() + clipped


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, C) -> (B, C, H, W)."""
    return tokens.permute(0, 2, 1).reshape(tokens.shape[0], tokens.shape[2], *grid).contiguous()


def to_tokens(grid: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C)."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def norm(module: Any, tokens: Tensor) -> Tensor:
    """Batch normalisation of (B, N, C), which PyTorch takes as (B, C, N)."""
    normalised = F.batch_norm(
        tokens.transpose(1, 2),
        module.running_mean,
        module.running_var,
        module.weight,
        module.bias,
        True,
        module.momentum,
        module.eps,
    )
    return normalised.transpose(1, 2)


def rprelu(module: Any, tokens: Tensor) -> Tensor:
    moved = tokens - module.shift_in
    return F.prelu(moved.transpose(1, 2), module.slope).transpose(1, 2) + module.shift_out


def scaled(module: Any, tokens: Tensor) -> Tensor:
    return tokens * module.scale + module.shift


def linear(module: Any, tokens: Tensor) -> Tensor:
    return F.linear(_Sign.apply(tokens), binary(module.weight))


def conv(module: Any, grid: Tensor) -> Tensor:
    return F.conv2d(
        _Sign.apply(grid),
        binary(module.weight),
        module.bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )


def unit(module: ResidualUnit, tokens: Tensor) -> Tensor:
    return rprelu(module.activation, norm(module.norm, linear(module.linear, tokens + module.move.bias)) + tokens)


def mixer(module: ConvMixer, grid: Tensor) -> Tensor:
    moved = grid + module.move.bias.view(1, -1, 1, 1).expand_as(grid)
    first, second, third = (
        rprelu(activation, to_tokens(conv(layer, moved)))
        for layer, activation in zip(module.convs, module.activations, strict=True)
    )
    return norm(module.norm, first + second + third)


def quantised(module: Any, probabilities: Tensor) -> Tensor:
    tripled = probabilities * 3
    if module.initialised == 0:
        module.initialise(probabilities)
    factor = len(module.step) / math.sqrt(3 * tripled.numel())

    def slowed(x: Tensor) -> Tensor:
        return (x - x * factor).detach() + x * factor

    step, offset = slowed(module.step).view(-1, 1, 1), slowed(module.offset).view(-1, 1, 1)
    return _Levels.apply(tripled / step + offset) * step


def attention(module: QuantAttention, tokens: Tensor) -> Tensor:
    """(windows, T, C) -> the same; windows of all images lie in the first axis."""

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], module.heads, -1).permute(0, 2, 1, 3)

    queries, keys, values = (unit(part, tokens) for part in (module.query, module.key, module.value))
    q, k, v = (
        heads(_Sign.apply(z + part.threshold.bias))
        for z, part in ((queries, module.query), (keys, module.key), (values, module.value))
    )
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    context = torch.matmul(quantised(module.quantizer, F.softmax(scores, dim=-1)), v)
    context = context.permute(0, 2, 1, 3).contiguous().flatten(2)
    return rprelu(module.activation, norm(module.norm, context) + queries + keys + values)


def windows(module: WindowAttention, grid: Tensor) -> Tensor:
    """(B, C, H, W) -> what the block adds, (B, N, C)."""
    batch, channels, height, width = grid.shape
    rows, columns = module.window
    down, across = height // rows, width // columns
    split = grid.view(batch, channels, down, rows, across, columns).permute(0, 2, 4, 3, 5, 1).contiguous()
    split = split.view(batch * down * across, rows * columns, channels)
    padding = ((rows - 1) // 2, (columns - 1) // 2)
    highest = F.max_pool2d(grid, module.window, module.window, padding)
    average = F.avg_pool2d(grid, module.window, module.window, padding)
    mix = module.pool_mix.view(1, -1, 1, 1)
    pooled = to_tokens(highest * mix + average * (1 - mix))
    pooled = pooled.unsqueeze(1).repeat(1, down * across, 1, 1).flatten(0, 1)
    tokens = torch.cat([split, pooled], dim=1)
    tokens = F.layer_norm(tokens, (channels,), module.token_norm.weight, module.token_norm.bias, module.token_norm.eps)
    local, everywhere = attention(module.attention, tokens).split([rows * columns, down * across], dim=1)
    local = local.reshape(batch, down, across, rows, columns, channels).permute(0, 5, 1, 3, 2, 4)
    local = local.reshape(batch, channels, height, width)
    everywhere = everywhere.reshape(batch, down * across, down, across, channels).mean(dim=1).permute(0, 3, 1, 2)
    everywhere = F.interpolate(everywhere, size=(height, width), mode="nearest")
    mix = module.local_mix.view(1, -1, 1, 1)
    tokens = to_tokens(local * mix.expand_as(local) + everywhere * (1 - mix).expand_as(everywhere))
    return scaled(module.output.scale, unit(module.output, tokens))


def mlp(module: Mlp, tokens: Tensor) -> Tensor:
    hidden = norm(module.norm1, linear(module.linear1, tokens + module.move1.bias))
    hidden = rprelu(module.activation1, hidden + torch.cat([tokens] * module.expansion, dim=-1))
    out = norm(module.norm2, linear(module.linear2, hidden + module.move2.bias))
    out = rprelu(module.activation2, out + F.avg_pool1d(hidden, module.expansion))
    return scaled(module.scale, out)


def means(grid: Tensor, width: int, axis: int) -> Tensor:
    total = grid
    for offset in range(1, width // 2 + 1):
        total = total + torch.roll(grid, offset, dims=axis) + torch.roll(grid, -offset, dims=axis)
    return total / width


def channel_shift(grid: Tensor, by: int) -> Tensor:
    up, down, left, right = grid.chunk(4, dim=1)
    moved = [torch.roll(up, by, 2), torch.roll(down, -by, 2), torch.roll(left, by, 3), torch.roll(right, -by, 3)]
    return torch.cat(moved, dim=1)


def block(module: Block, grid: Tensor) -> Tensor:
    shape = grid.shape[2:]
    tokens = to_tokens(grid)
    n = to_grid(norm(module.mixer_norm, tokens), shape)
    tokens = tokens + (mixer(module.mixer, n) if isinstance(module.mixer, ConvMixer) else windows(module.mixer, n))
    n = norm(module.mlp_norm, tokens)
    out = tokens + mlp(module.mlp, n)
    scales = module.shift.scales
    for width in (3, 5):
        for name, branch in (
            (f"h{width}", lambda x, width=width: means(x, width, 2)),
            (f"w{width}", lambda x, width=width: means(x, width, 3)),
            (f"c{width}", lambda x, width=width: channel_shift(x, width // 2)),
        ):
            out = out + scaled(scales[name], to_tokens(branch(to_grid(n, shape))))
    return to_grid(out, shape)


def downsample(module: BinaryDownsample, grid: Tensor) -> Tensor:
    shape = (grid.shape[2] // 2, grid.shape[3] // 2)
    n = to_grid(norm(module.norm_in, to_tokens(grid)), grid.shape[2:])
    pooled = to_tokens(F.avg_pool2d(n, 2, 2))
    y = to_tokens(conv(module.conv, n + module.move.bias.view(1, -1, 1, 1).expand_as(n)))
    y = rprelu(module.activation, norm(module.norm, y) + torch.cat([pooled] * module.repeats, dim=-1))
    return to_grid(y + module.position.flatten(0, 1), shape)


class PublishedWay(nn.Module):
    """A binary BHViT's training forward pass, computed the published way.

    Images are (B, 3, H, W), weights the model's own.
    """

    def __init__(self, model: BHViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        x = F.conv2d(images, model.stem.conv.weight, model.stem.conv.bias, model.stem.conv.stride)
        grid = x.shape[2:]
        tokens = F.gelu(norm(model.stem.norm, to_tokens(x))) + model.stem.position.flatten(0, 1)
        x = to_grid(tokens, grid)
        for index, stage in enumerate(model.stages):
            if index:
                x = downsample(model.downsamples[index - 1], x)
            for layer in stage:
                x = block(layer, x)
        pooled = norm(model.head.norm, to_tokens(x)).mean(dim=1)
        return F.linear(pooled, model.head.linear.weight, model.head.linear.bias)
