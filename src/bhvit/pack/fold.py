"""Folding: what is linear between two signs becomes one multiply-add a channel, computed in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..models.layers import LayerScale
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


def norm(module: nn.BatchNorm1d) -> Affine:
    """Batch normalisation with its running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise TypeError("a norm without running statistics cannot be folded")
    scale = array(module.weight) / np.sqrt(array(module.running_var) + module.eps)
    return Affine(scale, array(module.bias) - array(module.running_mean) * scale)


def layer_scale(module: LayerScale) -> Affine:
    """A LayerScale."""
    return Affine(array(module.scale), array(module.shift))


def binary_weight(weight: Tensor) -> tuple[F64, F64]:
    """Latent weights (O, ...) -> their centred values, whose signs are the bits, and scales (O,).

    Centring is done in the weights' own precision, so that no sign differs from the model's.
    """
    return array(centre(weight)), array(weight_scale(weight)).reshape(-1)
