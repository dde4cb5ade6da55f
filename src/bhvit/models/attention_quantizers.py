"""Quantisers of the attention matrix: probabilities become a few levels.

The product P v is then AND and popcount.

All take and give P of shape (..., heads, T, keys), rows summing to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..spec.model import ATTENTION_LEVELS, AttentionQuantizer
from ..spec.registry import ATTENTION_QUANTIZERS
from .batch_statistics import least_over_processes, mean_over_processes, processes

LEAST_SCALE = 1e-5
"""The scales of `GroupSuperpositionAttention` are kept at least this large in the forward pass."""


class DecomposedAttention(nn.Module):
    """Quantisation decomposition (BHViT, Gao et al., CVPR 2025): levels 0..3 of each head.

    P -> level * step with level = clamp(round(3P/step + offset), 0, 3). A level is a sum of two bit
    planes. `step` and `offset` learn as in LSQ (Esser et al., ICLR 2020), their gradients scaled by
    heads/sqrt(3 * numel). The first batch in training mode sets them from the data, once.
    """

    initialised: Tensor
    """1 once a batch has set `step` and `offset`: part of checkpoints. Steps read a copy that Python holds, since a
    step on a GPU would have to wait for this one."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.ones(heads))
        self.offset = nn.Parameter(torch.zeros(heads))
        self.register_buffer("initialised", torch.zeros(1))
        self._remember(initialised=False)

    def _remember(self, *, initialised: bool) -> None:
        """Note what `initialised` holds now."""
        self._is_initialised = initialised
        self._seen = self.initialised, _version(self.initialised)

    def _look(self) -> None:
        """Read `initialised`, unless nothing but this class wrote it since `_remember`."""
        buffer, version = self._seen
        if buffer is not self.initialised or version != _version(buffer):
            self._remember(initialised=bool(self.initialised != 0))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "initialised" and type(value) is Tensor and not value.is_meta:
            self._look()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if type(self.initialised) is Tensor and not self.initialised.is_meta:
            self._look()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DecomposedAttention:
        buffer, version = self._seen
        known = buffer is self.initialised and version == _version(buffer)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if known:
            self._remember(initialised=self._is_initialised)
        return self

    def awaits_first_batch(self) -> bool:
        """Whether the next batch in training mode sets `step` and `offset`."""
        if self.training and not torch.compiler.is_compiling():  # compilers follow no versions of tensors
            self._look()
        return self.training and not self._is_initialised

    @torch.no_grad()
    def initialise(self, probabilities: Tensor) -> None:
        """Set `step` and `offset` from the probabilities (..., heads, T, keys) of a batch."""
        batches = (ATTENTION_LEVELS * probabilities).flatten(0, -4)  # (B', heads, T, keys)
        # Axis by axis, as published: a step that is off by one rounding moves gradients at the highest level.
        mean = mean_over_processes(batches.abs().mean(dim=-1).mean(dim=-1).mean(dim=0))
        self.step.copy_(2 * mean / math.sqrt(ATTENTION_LEVELS))
        self.offset.copy_(0.9 * self.offset + 0.1 * least_over_processes(batches.amin(dim=(0, 2, 3))))
        self.initialised.fill_(1)
        if torch.compiler.is_compiling():
            self._is_initialised = True
        else:
            self._remember(initialised=True)

    def forward(self, probabilities: Tensor) -> Tensor:
        if self.awaits_first_batch():
            self.initialise(probabilities)
        step: Tensor = _ScaledGradient.apply(self.step, probabilities).view(-1, 1, 1)
        offset: Tensor = _ScaledGradient.apply(self.offset, probabilities).view(-1, 1, 1)
        levels: Tensor = _Levels.apply(ATTENTION_LEVELS * probabilities / step + offset)
        return levels * step


def _version(tensor: Tensor) -> int:
    """How often `tensor` was written in place."""
    return -1 if tensor.is_inference() else tensor._version


class _ScaledGradient(torch.autograd.Function):
    """`x` (heads,) with its gradient scaled as in LSQ, by heads/sqrt(3 * numel).

    numel counts the `probabilities` that it quantises.

    The factor is of backward alone, so that a forward pass exported for any batch does without the batch's size.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, probabilities: Tensor) -> Tensor:
        ctx.numel = probabilities.numel()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * (len(grad) * (ATTENTION_LEVELS * ctx.numel * processes()) ** -0.5), None


class _Levels(torch.autograd.Function):
    """clamp(round(x), 0, 3); gradients pass where the level lies between the ends, not at them.

    Written out because `torch.clamp` is no contract there: until 2026 it passed gradients at its ends, now
    it does not. Gradients recorded from the published code are of the latter kind.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        level = x.round()
        ctx.save_for_backward((level > 0) & (level < ATTENTION_LEVELS))
        return level.clamp_(0, ATTENTION_LEVELS)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (between,) = ctx.saved_tensors
        return grad * between


class GroupSuperpositionAttention(nn.Module):
    """Group superposition binarisation (GSB), the variant of BHViT.

    P -> scale * (T0 + scale2 * T1 + scale3 * T2).

    With q = P/scale: T2 marks q > 0.9 of the row's largest, T1 those above 0.7 of it that T2 does not
    mark, and T0 = clamp(round(q), 0, 1) - (T1 + T2), which may be -1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.005))
        self.scale2 = nn.Parameter(torch.tensor(1.0))
        self.scale3 = nn.Parameter(torch.tensor(1.0))

    def forward(self, probabilities: Tensor) -> Tensor:
        quantised: Tensor = _Gsb.apply(probabilities, self.scale, self.scale2, self.scale3)
        return quantised


class _Gsb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, scale: Tensor, scale2: Tensor, scale3: Tensor) -> Tensor:
        scale, scale2, scale3 = (s.clamp(min=LEAST_SCALE) for s in (scale, scale2, scale3))
        q = p / scale
        largest = q.amax(dim=-1, keepdim=True)
        # float32, as published: in float64, the scales that these multiply are rounded to it.
        high = (q > 0.9 * largest).float()
        upper = (q > 0.7 * largest).float()
        base = q.round().clamp(0, 1) - upper
        middle = upper - high
        ctx.save_for_backward(q, base, middle, high, scale, scale2, scale3)
        return (base + middle * scale2 + high * scale3) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # As published, which is not the derivative of the forward pass.
        q, base, middle, high, scale, scale2, scale3 = ctx.saved_tensors
        levels = base + scale2 * middle + scale3 * high
        inside = ((q >= 0) & (q <= 1)).to(q.dtype)
        return (
            scale * levels * grad,
            (levels * (1 - inside * q) * grad).sum(),
            (scale * middle * grad).sum(),
            (scale * high * grad).sum(),
        )


class OneBitAttention(nn.Module):
    """One bit: P -> scale * clamp(round(P/scale), 0, 1).

    Published with BinaryViT (Le and Li, CVPR Workshops 2023), after BiT (Liu et al., NeurIPS 2022).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.005))

    def forward(self, probabilities: Tensor) -> Tensor:
        quantised: Tensor = _OneBit.apply(probabilities, self.scale)
        return quantised


class _OneBit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, scale: Tensor) -> Tensor:
        q = p / scale
        ctx.save_for_backward(q)
        return q.round().clamp(0, 1) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        (q,) = ctx.saved_tensors
        inside = ((q >= 0) & (q <= 1)).to(q.dtype)
        above = (q > 1).to(q.dtype)
        return inside * grad, ((inside * (q.round() - q) + above) * grad).sum()


def make_attention_quantizer(kind: AttentionQuantizer, heads: int) -> nn.Module:
    """The quantiser of a kind of attention, for `heads` heads."""
    if kind in ATTENTION_QUANTIZERS:
        quantizer: nn.Module = ATTENTION_QUANTIZERS[kind](heads)
        return quantizer
    if kind == "decomposition":
        return DecomposedAttention(heads)
    return GroupSuperpositionAttention() if kind == "gsb" else OneBitAttention()
