"""Lower the grouped dilated convolutions."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from ...models.blocks import Block
from ...models.layers import QuantConv2d, RPReLU
from ...models.mixers import ConvMixer
from ..fold import Affine, array, norm, stored_weight, tile
from .parts import Tensors, affine


def lower(block: Block) -> Tensors:
    """Return the tensors of an op `mixer`: numbers in float64, weights in tiles."""
    mixer = cast("ConvMixer", block.mixer)
    tensors: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("weight", "scale", "shift", "slope")}
    constant: Any = 0.0
    for conv, activation in zip(mixer.convs, mixer.activations, strict=True):
        assert isinstance(conv, QuantConv2d)
        assert isinstance(activation, RPReLU)
        weight, scale = stored_weight(conv)
        tensors["weight"].append(tile(conv, weight))
        tensors["scale"].append(scale)
        tensors["shift"].append(array(conv.get_parameter("bias")) - array(activation.shift_in))
        tensors["slope"].append(array(activation.slope))
        constant = constant + array(activation.shift_out)
    after = norm(mixer.norm)
    layer = isinstance(mixer.norm, nn.LayerNorm)
    return {
        **affine("norm", norm(block.mixer_norm).plus(array(mixer.move.bias))),
        **{name: np.stack(parts) for name, parts in tensors.items()},
        **({"sum_shift": constant} if layer else {}),
        **affine("out", after if layer else Affine(np.ones_like(constant), constant).then(after)),
    }
