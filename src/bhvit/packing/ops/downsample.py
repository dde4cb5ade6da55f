"""Lower the binary downsampling."""

from __future__ import annotations

from ...models.blocks import BinaryDownsample
from ..fold import array, norm
from .parts import Tensors, affine, linear, rows


def lower(module: BinaryDownsample) -> Tensors:
    """Return the tensors of an op `downsample`: numbers in float64, weights in tiles."""
    return {
        **affine("norm", norm(module.norm_in)),
        "threshold": -array(module.move.bias),
        **linear(module.conv, module.norm, plus=-array(module.activation.shift_in)),
        "slope": array(module.activation.slope),
        "out_shift": array(module.activation.shift_out),
        "position": rows(array(module.position)),
    }
