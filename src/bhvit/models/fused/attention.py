"""Attention of signs with decomposed quantisation in a training step on a CPU, fused as in `fused`.

Scores of signs are whole numbers, so that a softmax needs few exponentials, and nothing is kept for backward but the
signs: a pass for each head of each window makes everything between them again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...spec.model import ATTENTION_LEVELS
from ..attention_quantizers import DecomposedAttention
from . import kernels as native
from . import layers as fused
from .kernels import all_at, at


def applies(quantizer: nn.Module, q: Tensor) -> bool:
    """Whether `attention` may compute what the quantiser of attention and its neighbours say."""
    return type(quantizer) is DecomposedAttention and fused.applies(quantizer, q)


def attention(q: Tensor, k: Tensor, v: Tensor, quantizer: Any) -> Tensor:
    """quantizer(softmax(q k^T / sqrt(d))) v for each head: signs (..., T, C) and twice (..., S, C) -> (..., T, C)."""
    contexts: Tensor = _Attention.apply(q, k, v, quantizer.step, quantizer.offset)
    return contexts


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, step: Tensor, offset: Tensor) -> Tensor:
        operands = [tensor.contiguous() for tensor in (q, k, v, step, offset)]
        native.check_like(operands[1], operands[2])
        native.check_like(operands[3], operands[4])
        if q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1] or q.shape[-1] % len(step):
            shapes = tuple(q.shape), tuple(k.shape), len(step)
            raise ValueError("queries of shape {} and keys of shape {} do not go with {} heads".format(*shapes))
        ctx.save_for_backward(*operands)
        out = torch.empty_like(operands[0])
        native.kernels(q).attention(_shape(*operands), torch.get_num_threads(), all_at(operands), at(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        operands = ctx.saved_tensors
        grads, shape, grad = [torch.empty_like(x) for x in operands], _shape(*operands), grad.contiguous()
        kernels = native.kernels(grad)
        kernels.attention_backward(shape, torch.get_num_threads(), all_at(operands), at(grad), all_at(grads))
        groups, queries, keys, heads, _ = shape
        # As `DecomposedAttention` scales them, after LSQ (Esser et al., ICLR 2020).
        scale = heads / math.sqrt(ATTENTION_LEVELS * groups * heads * queries * keys)
        return *grads[:3], grads[3] * scale, grads[4] * scale


def _shape(q: Tensor, k: Tensor, v: Tensor, step: Tensor, offset: Tensor) -> tuple[int, int, int, int, int]:
    """Groups, queries and keys in each, heads, channels of a head."""
    return math.prod(q.shape[:-2]), q.shape[-2], k.shape[-2], len(step), q.shape[-1] // len(step)
