"""Lower what both attention ops share: projections, attention matrix, context."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from ...models.attention_quantizers import LEAST_SCALE, DecomposedAttention, GroupSuperpositionAttention
from ...models.mixers import QuantAttention
from ...spec.model import ATTENTION_LEVELS
from ..fold import F64, array, normed
from .parts import Tensors, affine, unit_tensors


def attend(attention: QuantAttention) -> Tensors:
    """Return the tensors of projections, attention matrix and context."""
    roles = (attention.query, attention.key, attention.value)
    projections = [unit_tensors(p) for p in roles]
    channels, heads = attention.query.linear.out_features, attention.heads
    depth = channels // heads
    step, matrix = _matrix(attention.quantizer, heads, depth)
    context, tensors = normed(np.repeat(step, depth), attention.norm)
    # The contexts' residual is z_q + z_k + z_v, each without its activation's shift_out here.
    residual_shift = sum(array(p.activation.shift_out) for p in roles)
    return {
        **{f"qkv_{name}": np.stack([p[name] for p in projections]) for name in projections[0] if name != "threshold"},
        "in_threshold": np.stack([p["threshold"] for p in projections]),
        "qkv_threshold": np.stack([-(array(p.activation.shift_out) + array(p.threshold.bias)) for p in roles]),
        **matrix,
        **{f"ctx_{name}": tensor for name, tensor in tensors.items()},
        **affine("ctx", context.plus(residual_shift - array(attention.activation.shift_in))),
        "ctx_slope": array(attention.activation.slope),
        "mix_shift": array(attention.activation.shift_out),  # the shares of local and global add up to the whole
    }


def _matrix(quantizer: nn.Module, heads: int, depth: int) -> tuple[F64, Tensors]:
    """Return the value of one attention level, (heads,), and the tensors behind levels."""
    if isinstance(quantizer, nn.Identity):
        return np.ones(heads), {}
    tensors: Tensors = {
        # Scores are (d - 2m)/sqrt(d) for m differing bits: e^(score - best) depends on m - min m alone.
        "exp_table": np.exp(-2 * np.arange(depth + 1) / math.sqrt(depth)),
        "level_shift": np.zeros(heads),
    }
    if isinstance(quantizer, DecomposedAttention):
        step = array(quantizer.step)
        return step, {**tensors, "level_scale": ATTENTION_LEVELS / step, "level_shift": array(quantizer.offset)}
    if isinstance(quantizer, GroupSuperpositionAttention):
        scale, second, third = (
            max(array(s).item(), LEAST_SCALE) for s in (quantizer.scale, quantizer.scale2, quantizer.scale3)
        )
        # T0 + T1*second + T2*third, of masks that include each other: level, upper (T1 + T2), high (T2).
        tensors["plane_scale"] = np.array([second - 1, third - second])
    else:
        scale = array(quantizer.get_parameter("scale")).item()  # one bit
    step = np.full(heads, scale)
    return step, {**tensors, "level_scale": 1 / step}
