"""Tensors that several ops share."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from torch import nn

from ...bits import tile_floats
from ...models.layers import QuantConv2d, QuantLinear, RPReLU
from ...models.mixers import AttentionOutput, ResidualUnit
from ..fold import F64, Affine, array, layer_scale, norm, normed, stored_weight, tile

Tensors = dict[str, npt.NDArray[Any]]


def affine(name: str, folded: Affine) -> Tensors:
    """Return the two tensors of a multiply-add."""
    return {f"{name}_scale": folded.scale, f"{name}_shift": folded.shift}


def after_activation(activation: RPReLU, after: Affine) -> Affine:
    """Return `after` preceded by the activation's shift_out, which ops leave out of the activation."""
    return Affine(after.scale, array(activation.shift_out) * after.scale + after.shift)


def rows(position: F64) -> F64:
    """Return a position map (H, W, C) as rows of tokens, (H*W, C)."""
    return position.reshape(-1, position.shape[-1])


def linear(
    layer: QuantLinear | QuantConv2d,
    after: nn.Module,
    suffix: str = "",
    *,
    plus: F64,
    outputs: npt.NDArray[Any] | slice = slice(None),
    inputs: npt.NDArray[Any] | slice = slice(None),
) -> Tensors:
    """Fold a layer, the norm after it and a constant into tensors.

    These are weight, scale and shift; `plus` is the constant, (O,).

    `outputs` and `inputs` put its channels in order.
    """
    weight, scale = stored_weight(layer)
    folded, tensors = normed(scale, after)
    tensors |= {"scale": folded.scale, "shift": folded.shift + plus}
    ordered = {f"{name}{suffix}": value[outputs] for name, value in tensors.items()}
    return {f"weight{suffix}": tile(layer, weight[outputs][:, inputs]), **ordered}


def classifier(before: nn.Module, layer: nn.Linear) -> Tensors:
    """Return the tensors of a norm and a full-precision linear layer."""
    return {**affine("norm", norm(before)), "weight": tile_floats(array(layer.weight)), "bias": array(layer.bias)}


def unit_tensors(unit: ResidualUnit) -> Tensors:
    """Return the tensors of a residual unit without its activation's shift_out."""
    return {
        "threshold": -array(unit.move.bias),
        # The residual is added after shift_in was taken from the norm's constant.
        **linear(unit.linear, unit.norm, plus=-array(unit.activation.shift_in)),
        "slope": array(unit.activation.slope),
    }


def output(module: AttentionOutput) -> Tensors:
    """Return the tensors of an attention's output projection."""
    return {
        **{f"proj_{name}": tensor for name, tensor in unit_tensors(module).items()},
        **affine("out", after_activation(module.activation, layer_scale(module.scale))),
    }
