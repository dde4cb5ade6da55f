"""Folding: what is linear between two signs becomes one multiply-add a channel, computed in float64."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..bits import tile_floats, tile_weights
from ..models.binary import channel_scale, has_binary_weights, latent_weight
from ..models.layers import LayerScale, QuantConv2d, QuantLinear

F64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Affine:
    """x * scale + shift, a channel; both (C,) float64."""

    scale: F64
    shift: F64

    def then(self, after: Affine) -> Affine:
        """This multiply-add followed by `after`, as one."""
        return Affine(self.scale * after.scale, self.shift * after.scale + after.shift)

    def plus(self, constant: F64) -> Affine:
        """This multiply-add with `constant` added to its result."""
        return Affine(self.scale, self.shift + constant)


def array(tensor: Tensor) -> F64:
    """A parameter as a flat or shaped float64 array."""
    return tensor.detach().to(torch.float64).cpu().numpy()


def norm(module: nn.Module) -> Affine:
    """The multiply-add of a norm.

    It is all of batch normalisation with its running statistics, and of layer normalisation what follows once a
    token's mean and deviation are taken out.
    """
    if isinstance(module, nn.LayerNorm):
        return Affine(array(module.weight), array(module.bias))
    norm = cast("nn.BatchNorm1d", module)  # `structure.check_structure` has seen to it
    mean, variance = array(norm.get_buffer("running_mean")), array(norm.get_buffer("running_var"))
    scale = array(norm.weight) / np.sqrt(variance + norm.eps)
    return Affine(scale, array(norm.bias) - mean * scale)


def normed(scale: F64, module: nn.Module) -> tuple[Affine, dict[str, F64]]:
    """Fold a multiplication of channels by `scale`, and the norm after it, into one multiply-add.

    With layer normalisation, which lies between, `scale` stays a tensor of its own, "weight_scale".
    """
    if isinstance(module, nn.LayerNorm):
        return norm(module), {"weight_scale": scale}
    return Affine(scale, np.zeros_like(scale)).then(norm(module)), {}


def layer_scale(module: LayerScale) -> Affine:
    """A LayerScale."""
    return Affine(array(module.scale), array(module.shift))


def stored_weight(layer: QuantLinear | QuantConv2d) -> tuple[F64, F64]:
    """Return the weights (O, K) that `tile` takes, and their scales (O,).

    Binary weights are latent ones, whose signs count; centring is done in the weights' own precision, so that no sign
    differs from the model's. A convolution's inputs come in the order (row, column, channel).
    """
    if has_binary_weights(layer):
        weight = array(latent_weight(layer))
        scale = array(channel_scale(layer)).reshape(-1)
    else:
        weight, scale = array(layer.weight), np.ones(len(layer.weight))
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    return weight, scale


def tile(layer: QuantLinear | QuantConv2d, weight: F64) -> npt.NDArray[Any]:
    """Weights (O, K) -> tiles of the file: bits, or floats in full precision."""
    return tile_weights(weight) if has_binary_weights(layer) else tile_floats(weight)
