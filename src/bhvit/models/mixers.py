"""Token mixers: grouped dilated convolution for fine grids, window attention for coarse ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec import DILATIONS, MIXER_GROUPS
from .layers import BatchNorm, BinaryConv2d, BinaryLinear, LayerScale, Move, RPReLU
from .quantizers import DecomposedAttention, sign


class ConvMixer(nn.Module):
    """Multi-scale grouped dilated convolution (BHViT, Gao et al., CVPR 2025): (B, H, W, C) -> the same.

    y_d = RPReLU(binary 3x3 convolution of n + bias, dilation d), d = 1, 3, 5; norm(y_1 + y_3 + y_5).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move = Move(channels)
        self.convs = nn.ModuleList(
            BinaryConv2d(channels, channels, 3, padding=d, dilation=d, groups=MIXER_GROUPS) for d in DILATIONS
        )
        self.activations = nn.ModuleList(RPReLU(channels) for _ in DILATIONS)
        self.norm = BatchNorm(channels)

    def forward(self, n: Tensor) -> Tensor:
        m = self.move(n)
        y_1, y_3, y_5 = (activation(conv(m)) for conv, activation in zip(self.convs, self.activations, strict=True))
        return self.norm(y_1 + y_3 + y_5)


class Projection(nn.Module):
    """One of q, k, v: z = RPReLU(norm(binary linear(t + move)) + t), and its signs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move = Move(channels)
        self.linear = BinaryLinear(channels, channels)
        self.norm = BatchNorm(channels)
        self.activation = RPReLU(channels)
        self.threshold = Move(channels)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        z = self.activation(self.norm(self.linear(self.move(t))) + t)
        return z, sign(self.threshold(z))


class AttentionOutput(nn.Module):
    """LayerScale(RPReLU(norm(binary linear(c + move)) + c))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move = Move(channels)
        self.linear = BinaryLinear(channels, channels)
        self.norm = BatchNorm(channels)
        self.activation = RPReLU(channels)
        self.scale = LayerScale(channels, 0.1)

    def forward(self, c: Tensor) -> Tensor:
        return self.scale(self.activation(self.norm(self.linear(self.move(c))) + c))


class WindowAttention(nn.Module):
    """Multi-scale window attention (BHViT, Gao et al., CVPR 2025): (B, H, W, C) -> the same.

    Windows of tokens attend to themselves and to global tokens, one pooled from around each window's
    corner; the probabilities are quantised by decomposition, q, k and v are signs.
    Shapes: nW windows, L tokens in each, G = nW global tokens, T = L + G, d channels a head.
    """

    def __init__(self, channels: int, heads: int, window: tuple[int, int]) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.pool_mix = nn.Parameter(torch.full((channels,), 0.5))
        self.token_norm = nn.LayerNorm(channels)
        self.query = Projection(channels)
        self.key = Projection(channels)
        self.value = Projection(channels)
        self.quantizer = DecomposedAttention(heads)
        self.norm = BatchNorm(channels)
        self.activation = RPReLU(channels)
        self.local_mix = nn.Parameter(torch.full((channels,), 0.5))
        self.output = AttentionOutput(channels)

    def tokens(self, n: Tensor) -> Tensor:
        """n (B, H, W, C) -> normalised tokens of each window and the global ones, (B, nW, T, C)."""
        local = self._split(n)
        padding = [(edge - 1) // 2 for edge in self.window]
        grid = n.permute(0, 3, 1, 2)
        average = F.avg_pool2d(grid, self.window, self.window, padding)
        maximum = F.max_pool2d(grid, self.window, self.window, padding)
        mix = self.pool_mix.view(-1, 1, 1)
        pooled = (mix * maximum + (1 - mix) * average).flatten(2).transpose(1, 2)  # (B, G, C)
        everywhere = pooled.unsqueeze(1).expand(-1, local.shape[1], -1, -1)
        return self.token_norm(torch.cat([local, everywhere], dim=2))

    def attend(self, t: Tensor) -> Tensor:
        """Tokens (B, nW, T, C) -> their contexts, the same shape."""
        (z_q, q), (z_k, k), (z_v, v) = self.query(t), self.key(t), self.value(t)
        q, k, v = (self._heads(signs) for signs in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, nW, heads, T, T)
        probabilities = self.quantizer(scores.softmax(dim=-1))
        context = (probabilities @ v).transpose(2, 3).flatten(3)
        return self.activation(self.norm(context) + z_q + z_k + z_v)

    def forward(self, n: Tensor) -> Tensor:
        length = self.window[0] * self.window[1]
        contexts = self.attend(self.tokens(n))
        local, pooled = contexts[:, :, :length], contexts[:, :, length:]
        local = self._merge(local, n.shape)
        # Token g of the global ones stands for window g: nearest upsampling spreads it over that window.
        spread = pooled.mean(dim=1).unsqueeze(2).expand(-1, -1, length, -1)
        spread = self._merge(spread, n.shape)
        return self.output(self.local_mix * local + (1 - self.local_mix) * spread)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(2, 3)  # (B, nW, heads, T, d)

    def _split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, nW, L, C)."""
        batch, height, width, channels = x.shape
        rows, columns = self.window
        x = x.view(batch, height // rows, rows, width // columns, columns, channels)
        return x.transpose(2, 3).reshape(batch, -1, rows * columns, channels)

    def _merge(self, x: Tensor, shape: torch.Size) -> Tensor:
        """(B, nW, L, C) -> (B, H, W, C)."""
        batch, height, width, channels = shape
        rows, columns = self.window
        x = x.reshape(batch, height // rows, width // columns, rows, columns, channels)
        return x.transpose(2, 3).reshape(shape)
