"""Token mixers: grouped dilated convolution for fine grids, window attention for coarse ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec.mixers import MIXER_GROUPS
from ..spec.model import DILATIONS, AttentionQuantizer, ModelSpec
from ..spec.registry import MIXERS
from .attention_quantizers import make_attention_quantizer
from .fused import attention as fused_attention
from .fused import grids as fused_grids
from .fused import layers as fused
from .layers import LayerScale, LearnableBias, QuantConv2d, QuantLinear, make_activation, make_norm
from .quant_config import QuantConfig
from .quantizers import make_activation_quantizer, quantize_activations


class TokenMixer(nn.Module):
    """A token mixer of the package: tokens (B, H, W, C) -> the same.

    `class PoolMixer(TokenMixer, mixer="pooling")` is what a stage with this mixer has. `spec.mixers` says what it reads
    of the stage. Mixers of your own are other modules: see `register_mixer`.
    """

    by_name: ClassVar[dict[str, type[TokenMixer]]] = {}
    """The classes by the names that a spec gives them."""

    def __init_subclass__(cls, *, mixer: str | None = None) -> None:
        if mixer is not None:
            TokenMixer.by_name[mixer] = cls

    @classmethod
    def of(cls, spec: ModelSpec, stage: int) -> TokenMixer:
        """Make the mixer of a stage.

        This one suits classes that take the channels and a `QuantConfig`.
        """
        make: Callable[[int, QuantConfig], TokenMixer] = cls
        return make(spec.stages[stage].channels, QuantConfig.of(spec, stage))

    def stage_fields(self) -> dict[str, Any]:
        """Fields of a `StageSpec` that describe this mixer, in addition to its name."""
        return {}


def make_mixer(spec: ModelSpec, stage: int) -> nn.Module:
    """Make the mixer of a stage: of the package or registered."""
    name = spec.stages[stage].mixer
    mixer: nn.Module = MIXERS[name](spec, stage) if name in MIXERS else TokenMixer.by_name[name].of(spec, stage)
    return mixer


class ConvMixer(TokenMixer, mixer="conv"):
    """Multi-scale grouped dilated convolution (BHViT): (B, H, W, C) -> the same.

    y_d = RPReLU(binary 3x3 convolution of n + bias, dilation d), d = 1, 3, 5; norm(y_1 + y_3 + y_5).
    """

    def __init__(self, channels: int, config: QuantConfig) -> None:
        super().__init__()
        self.move = LearnableBias(channels)
        self.convs = nn.ModuleList(
            QuantConv2d(channels, channels, 3, config, padding=d, dilation=d, groups=MIXER_GROUPS) for d in DILATIONS
        )
        self.activations = nn.ModuleList(make_activation(config, channels) for _ in DILATIONS)
        self.norm = make_norm(config, channels)

    def forward(self, n: Tensor) -> Tensor:
        if fused.applies(self, n):
            return self._fused(n)
        m = self.move(n)
        y_1, y_3, y_5 = (activation(conv(m)) for conv, activation in zip(self.convs, self.activations, strict=True))
        return self.norm(y_1 + y_3 + y_5)

    def _fused(self, n: Tensor) -> Tensor:
        convs, activations = cast("list[QuantConv2d]", list(self.convs)), list(self.activations)
        config = convs[0].quant
        weights = [fused.conv_weight(conv.weight, config) for conv in convs]
        ys = fused_grids.grouped_convs(n, self.move.bias, weights, config)
        return self.norm(fused.rprelu_sum(ys, [conv.bias for conv in convs], activations))


class PoolMixer(TokenMixer, mixer="pooling"):
    """norm(mean of 3x3 tokens, zeros outside the grid): (B, H, W, C) -> the same.

    The plain mixer that ablations compare with (MetaFormer, Yu et al., CVPR 2022): it learns nothing of space.
    """

    def __init__(self, channels: int, config: QuantConfig) -> None:
        super().__init__()
        self.norm = make_norm(config, channels)

    def forward(self, n: Tensor) -> Tensor:
        return self.norm(F.avg_pool2d(n.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1))


class ResidualUnit(nn.Module):
    """RPReLU(norm(binary linear(x + move)) + x): (..., C) -> the same."""

    def __init__(self, channels: int, config: QuantConfig) -> None:
        super().__init__()
        self.move = LearnableBias(channels)
        self.linear = QuantLinear(channels, channels, config)
        self.norm = make_norm(config, channels)
        self.activation = make_activation(config, channels)

    def forward(self, x: Tensor) -> Tensor:
        if fused.applies(self, x):
            return fused.residual_unit(self, x)
        return self.activation(self.norm(self.linear(self.move(x))) + x)


class Projection(ResidualUnit):
    """One of q, k and v: `forward` gives z, `signs` its bits."""

    def __init__(self, channels: int, config: QuantConfig) -> None:
        super().__init__(channels, config)
        self.threshold = LearnableBias(channels)
        self.activation_quantizer = make_activation_quantizer(config, channels)

    def signs(self, z: Tensor) -> Tensor:
        """Signs of z + threshold, or that itself where activations are full precision."""
        config = self.linear.quant
        plain = config.activation_bits == 1 and self.activation_quantizer is None
        if plain and fused.applies(self.threshold, z):
            return fused.signs(z, self.threshold.bias)
        return quantize_activations(self.threshold(z), config, self.activation_quantizer)


class AttentionOutput(ResidualUnit):
    """LayerScale of a residual unit."""

    def __init__(self, channels: int, config: QuantConfig) -> None:
        super().__init__(channels, config)
        self.scale = LayerScale(channels, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        if fused.applies(self, x):
            return fused.residual_unit(self, x, self.scale)
        return self.scale(super().forward(x))


class QuantAttention(nn.Module):
    """Attention of signs: RPReLU(norm(P v) + z_q + z_k + z_v).

    q, k and v are signs, P is the quantised softmax of q k^T / sqrt(d).
    """

    def __init__(self, channels: int, heads: int, quantizer: AttentionQuantizer, config: QuantConfig) -> None:
        super().__init__()
        self.heads = heads
        self.query = Projection(channels, config)
        self.key = Projection(channels, config)
        self.value = Projection(channels, config)
        self.quantizer = make_attention_quantizer(quantizer, heads) if config.activation_bits == 1 else nn.Identity()
        self.norm = make_norm(config, channels)
        self.activation = make_activation(config, channels)

    def forward(self, queries: Tensor, keys: Tensor, spread: Callable[[Tensor], Tensor] = lambda z: z) -> Tensor:
        """Tokens (..., T, C) and (..., S, C) -> contexts (..., T, C).

        `spread` brings what belongs to the keys, (..., S, C), to the queries' tokens for the residual.
        """
        z_q, z_k, z_v = self.query(queries), self.key(keys), self.value(keys)
        signs = self.query.signs(z_q), self.key.signs(z_k), self.value.signs(z_v)
        context = self._attend(*signs)
        if fused.applies(self, context):
            return fused.unit(context, z_q + spread(z_k) + spread(z_v), self.norm, self.activation)
        return self.activation(self.norm(context) + z_q + spread(z_k) + spread(z_v))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        quantizer: Any = self.quantizer
        signs = all(part.activation_quantizer is None for part in (self.query, self.key, self.value))
        if signs and fused_attention.applies(quantizer, q):
            if quantizer.awaits_first_batch():
                # By no gradient, so that a checkpointed step saves the same tensors when it computes this again.
                with torch.no_grad():
                    quantizer.initialise(self._probabilities(q, k))
            return fused_attention.attention(q, k, v, quantizer)
        probabilities = quantizer(self._probabilities(q, k))
        context: Tensor = (probabilities @ self._heads(v)).transpose(-2, -3).flatten(-2)
        return context

    def _probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d)) of each head, (..., heads, T, S).

        q is (..., T, C), k is (..., S, C).
        """
        q, k = self._heads(q), self._heads(k)
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(-2, -3)  # (..., heads, T, d)


class WindowAttention(TokenMixer, mixer="attention"):
    """Multi-scale window attention (BHViT): (B, H, W, C) -> the same.

    Windows of tokens attend to themselves and to global tokens, one pooled from around each window's
    corner.
    Shapes: nW windows, L tokens in each, G = nW global tokens, T = L + G.
    """

    def __init__(
        self, channels: int, heads: int, window: tuple[int, int], quantizer: AttentionQuantizer, config: QuantConfig
    ) -> None:
        super().__init__()
        self.window = window
        self.pool_mix = nn.Parameter(torch.full((channels,), 0.5))
        self.token_norm = nn.LayerNorm(channels)
        self.attention = QuantAttention(channels, heads, quantizer, config)
        self.local_mix = nn.Parameter(torch.full((channels,), 0.5))
        self.output = AttentionOutput(channels, config)

    @classmethod
    def of(cls, spec: ModelSpec, stage: int) -> TokenMixer:
        settings, config = spec.stages[stage], QuantConfig.of(spec, stage)
        return cls(settings.channels, settings.heads, spec.window(stage), spec.attention, config)

    def stage_fields(self) -> dict[str, Any]:
        return {"heads": self.attention.heads, "window": self.window}

    def tokens(self, n: Tensor) -> Tensor:
        """n (B, H, W, C) -> normalised tokens of each window, (B, nW, T, C).

        The L tokens of the window come first, then all G global ones.
        """
        local = self._split(n)
        padding = [(edge - 1) // 2 for edge in self.window]
        grid = n.permute(0, 3, 1, 2)
        average = F.avg_pool2d(grid, self.window, self.window, padding)
        maximum = F.max_pool2d(grid, self.window, self.window, padding)
        mix = self.pool_mix.view(-1, 1, 1)
        pooled = (mix * maximum + (1 - mix) * average).flatten(2).transpose(1, 2)  # (B, G, C)
        everywhere = pooled.unsqueeze(1).expand(-1, local.shape[1], -1, -1)
        return self.token_norm(torch.cat([local, everywhere], dim=2))

    def forward(self, n: Tensor) -> Tensor:
        length = self.window[0] * self.window[1]
        t = self.tokens(n)
        contexts = self.attention(t, t)
        local, pooled = contexts[:, :, :length], contexts[:, :, length:]
        local = self._merge(local, n.shape)
        # Token g of the global ones stands for window g: nearest upsampling spreads it over that window.
        spread = pooled.mean(dim=1).unsqueeze(2).expand(-1, -1, length, -1)
        spread = self._merge(spread, n.shape)
        return self.output(self.local_mix * local + (1 - self.local_mix) * spread)

    def _split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, nW, L, C)."""
        batch, height, width, channels = x.shape
        rows, columns = self.window
        x = x.view(batch, height // rows, rows, width // columns, columns, channels)
        return x.transpose(2, 3).flatten(1, 2).flatten(2, 3)

    def _merge(self, x: Tensor, shape: torch.Size) -> Tensor:
        """(B, nW, L, C) -> (B, H, W, C)."""
        batch, height, width, channels = shape
        rows, columns = self.window
        x = x.reshape(batch, height // rows, width // columns, rows, columns, channels)
        return x.transpose(2, 3).reshape(shape)


class PooledAttention(TokenMixer, mixer="pooled_attention"):
    """Attention to pooled keys and values (BinaryViT): (B, H, W, C) -> the same.

    With pooling, keys and values come from RPReLU(norm(binary linear(p + move)) + p), p the grid's means
    over `key_pool` x `key_pool` tokens; their residuals go back to every token of their patch.
    """

    def __init__(
        self, channels: int, heads: int, key_pool: int, quantizer: AttentionQuantizer, config: QuantConfig
    ) -> None:
        super().__init__()
        self.key_pool = key_pool
        self.reduction = ResidualUnit(channels, config) if key_pool > 1 else nn.Identity()
        self.attention = QuantAttention(channels, heads, quantizer, config)
        self.output = AttentionOutput(channels, config)

    @classmethod
    def of(cls, spec: ModelSpec, stage: int) -> TokenMixer:
        settings, config = spec.stages[stage], QuantConfig.of(spec, stage)
        return cls(settings.channels, settings.heads, settings.key_pool, spec.attention, config)

    def stage_fields(self) -> dict[str, Any]:
        return {"heads": self.attention.heads, "key_pool": self.key_pool}

    def forward(self, n: Tensor) -> Tensor:
        batch, height, width, channels = n.shape
        pool = self.key_pool
        pooled = F.avg_pool2d(n.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1) if pool > 1 else n

        def spread(z: Tensor) -> Tensor:
            grid = z.view(batch, height // pool, 1, width // pool, 1, channels)
            return grid.expand(-1, -1, pool, -1, pool, -1).reshape(batch, height * width, channels)

        context = self.attention(n.flatten(1, 2), self.reduction(pooled.flatten(1, 2)), spread)
        return self.output(context.view(n.shape))
