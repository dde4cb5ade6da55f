"""Lower a lateral unit of a segmentation's decoder."""

from __future__ import annotations

from ...models.segmentation import Lateral
from ..fold import array, norm
from .parts import Tensors, affine, linear


def lower(unit: Lateral) -> Tensors:
    """Return the tensors of an op `lateral`: numbers in float64, weights in tiles."""
    return {
        **affine("norm", norm(unit.norm_in)),
        "threshold": -array(unit.move.bias),
        **linear(unit.linear, unit.norm, plus=-array(unit.activation.shift_in)),
        "slope": array(unit.activation.slope),
        "out_shift": array(unit.activation.shift_out),
    }
