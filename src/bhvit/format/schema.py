"""Schemas of ops: attributes, options, rules and tensors.

Each op has its schema in a file of `ops`. `native/format/generate.py` writes the same rules in C++; run it after a
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from ..errors import FormatError
from .expressions import evaluate

Kind = Literal["bits", "float"]
Dims = dict[str, int]

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "norm": ("batch", "layer"),
    "weights": ("binary", "float"),
    "activations": ("binary", "float"),
    "quantizer": ("decomposition", "gsb", "one_bit"),
    "border": ("cyclic", "zero"),
    "activation": ("gelu", "none"),
}
"""Values of each option, the default first. A file leaves defaults out."""


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """A tensor of an op.

    `shape` is in expressions of the op's attributes. A tensor of `weights` ends in (output tiles, inputs):
    it is stored as bits (tiles, words, 16), or, if the option `weights` is "float", as floats
    (tiles, inputs, 16). `when`, "option=value" or "attribute>1" or several with spaces between, says which ops have
    the tensor.
    """

    shape: tuple[str, ...]
    weights: bool = False
    when: str = ""


@dataclasses.dataclass(frozen=True)
class OpSchema:
    """Attributes and options of an op, its tensors, and what its attributes must fulfil."""

    attributes: tuple[str, ...]
    options: tuple[str, ...]
    tensors: Mapping[str, TensorRule]
    rules: tuple[tuple[str, str], ...] = ()
    """Conditions on the attributes, in order, each with the message of the error where it does not hold."""
    output: tuple[str, str, str] = ("height", "width", "channels")
    """(H, W, C) of the value that the op writes."""
    inputs: tuple[tuple[str, str, str], ...] = (("height", "width", "channels"),)
    """(H, W, C) of each value that the op reads; the stem reads the image alone."""
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Attributes that a file leaves out where they equal another, by the name of the other."""

    def check(self, attributes: Dims) -> None:
        """Raise FormatError on impossible attributes."""
        for condition, message in self.rules:
            require(bool(evaluate(condition, attributes)), message)


SCHEMAS: dict[str, OpSchema] = {}
"""Schemas by kind; `ops` fills it, one entry for each of its files."""


def require(condition: bool, message: str) -> None:
    """Raises FormatError with the message unless the condition holds."""
    if not condition:
        raise FormatError(message)


WHOLE_WORDS = ("channels % 32 == 0", "channels must be a multiple of 32")
DOWNSAMPLING = (
    ("channels % 32 == 0 and out_channels % 32 == 0", "channels must be multiples of 32"),
    ("out_channels % channels == 0", "out_channels must be a multiple of channels"),
    ("height % 2 == 0 and width % 2 == 0", "height and width must be even"),
)
HALVED = ("height // 2", "width // 2", "out_channels")


def floats(names: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    """Return rules of float tensors of one shape, `names` separated by spaces."""
    return {name: TensorRule(shape, when=when) for name in names.split()}


def weights(name: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    """Return the rule of a layer's weights, bits or floats by the option `weights`."""
    return {name: TensorRule(shape, weights=True, when=when)}


LAYER, BATCH = "norm=layer", "norm=batch"
NORM_TENSORS = floats("norm_scale norm_shift", "channels")
QUANTISED = ("norm", "weights", "activations")
