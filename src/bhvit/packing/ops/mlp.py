"""Lower the MLP of a block and the shift branches next to it."""

from __future__ import annotations

import copy

import numpy as np

from ...format.arithmetic import TAPS
from ...models.blocks import Block
from ...models.layers import ShiftBranches
from ..fold import F64, array, layer_scale, norm
from .parts import Tensors, affine, after_activation, linear


def lower(block: Block) -> Tensors:
    """Return the tensors of an op `mlp`: numbers in float64, weights in tiles."""
    mlp = block.mlp
    r, channels = mlp.expansion, mlp.linear2.out_features
    # Stored hidden (i, c) is published hidden r*c + i (see `format.ops.mlp`).
    order = np.arange(r * channels).reshape(channels, r).T.reshape(-1)
    hidden_shift = array(mlp.activation1.shift_out)
    # u = z + hidden_shift: its mean over each run of r channels joins the second layer's constant.
    means = hidden_shift.reshape(channels, r).mean(axis=1)
    first = linear(mlp.linear1, mlp.norm1, "1", outputs=order, plus=-array(mlp.activation1.shift_in))
    second = linear(mlp.linear2, mlp.norm2, "2", inputs=order, plus=means - array(mlp.activation2.shift_in))
    taps, tap_shift = _taps(block.shift, channels)
    return {
        **affine("norm", norm(block.mlp_norm)),
        "threshold1": -array(mlp.move1.bias),
        **first,
        "slope1": array(mlp.activation1.slope)[order],
        "threshold2": -(array(mlp.move2.bias) + hidden_shift)[order],
        **second,
        "slope2": array(mlp.activation2.slope),
        **affine("out", after_activation(mlp.activation2, layer_scale(mlp.scale)).plus(tap_shift)),
        "taps": taps,
    }


def _taps(shift: ShiftBranches | None, channels: int) -> tuple[F64, F64]:
    """Return the taps of the cross, (9, C), and the constant it adds, (C,)."""
    if shift is None:
        return np.zeros((len(TAPS), channels)), np.zeros(channels)
    taps, constant = copy.deepcopy(shift).double().taps()
    return array(taps), array(constant)
