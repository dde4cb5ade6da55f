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
from . import gpu
from . import kernels as native
from . import layers as fused
from .gradients import Gradients, by_name
from .kernels import threads


def applies(quantizer: nn.Module, q: Tensor) -> bool:
    """Whether `attention` may compute what the quantiser of attention and its neighbours say."""
    return type(quantizer) is DecomposedAttention and fused.applies(quantizer, q)


def attention(q: Tensor, k: Tensor, v: Tensor, quantizer: Any) -> Tensor:
    """quantizer(softmax(q k^T / sqrt(d))) v for each head: signs (..., T, C) and twice (..., S, C) -> (..., T, C)."""
    if gpu.is_used(q):
        return gpu.attention(q, k, v, quantizer)
    contexts: Tensor = _Attention.apply(q, k, v, quantizer.step, quantizer.offset)
    return contexts


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, step: Tensor, offset: Tensor) -> Tensor:
        q, k, v, step, offset = (tensor.contiguous() for tensor in (q, k, v, step, offset))
        ctx.save_for_backward(q, k, v, step, offset)
        out = torch.empty_like(q)
        native.kernels(q).attention(q=q, k=k, v=v, step=step, offset=offset, threads=threads(), out=out)
        return out

    @staticmethod
    @once_differentiable
    @by_name(forward)
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        q, k, v, step, offset = ctx.saved_tensors
        dq, dk, dv, dstep, doffset = (torch.empty_like(x) for x in (q, k, v, step, offset))
        native.kernels(grad).attention_backward(
            q=q,
            k=k,
            v=v,
            step=step,
            offset=offset,
            threads=threads(),
            out_grad=grad.contiguous(),
            q_grad=dq,
            k_grad=dk,
            v_grad=dv,
            step_grad=dstep,
            offset_grad=doffset,
        )
        # As `DecomposedAttention` scales them, after LSQ (Esser et al., ICLR 2020).
        groups, queries, keys, heads = math.prod(q.shape[:-2]), q.shape[-2], k.shape[-2], len(step)
        scale = heads / math.sqrt(ATTENTION_LEVELS * groups * heads * queries * keys)
        return {"q": dq, "k": dk, "v": dv, "step": dstep * scale, "offset": doffset * scale}
