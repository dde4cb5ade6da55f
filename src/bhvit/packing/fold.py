"""Folding: what is linear between two signs becomes one multiply-add a channel, computed in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..models.layers import LayerScale, QuantConv2d, QuantLinear
from ..models.quantizers import centre, weight_scale

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
    """Batch normalisation with its running statistics."""
    if not isinstance(module, nn.BatchNorm1d) or module.running_mean is None or module.running_var is None:
        raise TypeError("only batch normalisation with running statistics can be folded")
    scale = array(module.weight) / np.sqrt(array(module.running_var) + module.eps)
    return Affine(scale, array(module.bias) - array(module.running_mean) * scale)


def layer_scale(module: LayerScale) -> Affine:
    """A LayerScale."""
    return Affine(array(module.scale), array(module.shift))


def binary_weight(layer: QuantLinear | QuantConv2d) -> tuple[F64, F64]:
    """The latent weights (O, ...) whose signs are the bits, and their scales (O,).

    Centring is done in the weights' own precision, so that no sign differs from the model's.
    """
    centred = isinstance(layer, QuantLinear) or layer.style.centre_convs
    latent = centre(layer.weight) if centred else layer.weight
    return array(latent), array(weight_scale(layer.weight)).reshape(-1)
