"""The schema of the op program: attributes, options and limits of each op, and the shapes of its tensors.

`program` says what each op computes. `native/format/generate.py` writes the same rules in C++; run it after a change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from ..bits import LANES
from ..errors import FormatError
from ..spec.limits import MAX_KEYS
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
    """(H, W, C) of x after the op."""

    def check(self, attributes: Dims) -> None:
        """Raise FormatError on impossible attributes."""
        for condition, message in self.rules:
            require(bool(evaluate(condition, attributes)), message)


def require(condition: bool, message: str) -> None:
    """Raises FormatError with the message unless the condition holds."""
    if not condition:
        raise FormatError(message)


_WHOLE_WORDS = ("channels % 32 == 0", "channels must be a multiple of 32")
_HEADS = ("channels % (32 * heads) == 0", "channels per head must be a multiple of 32")
_DOWNSAMPLING = (
    ("channels % 32 == 0 and out_channels % 32 == 0", "channels must be multiples of 32"),
    ("out_channels % channels == 0", "out_channels must be a multiple of channels"),
    ("height % 2 == 0 and width % 2 == 0", "height and width must be even"),
)
_HALVED = ("height // 2", "width // 2", "out_channels")


def _floats(names: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    return {name: TensorRule(shape, when=when) for name in names.split()}


def _weights(name: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    return {name: TensorRule(shape, weights=True, when=when)}


_LAYER, _BATCH = "norm=layer", "norm=batch"
_NORM = _floats("norm_scale norm_shift", "channels")
_ATTEND = (
    _floats("exp_table", "channels // heads + 1", when="activations=binary")
    | _floats("level_scale level_shift", "heads", when="activations=binary")
    | _floats("plane_scale", "2", when="quantizer=gsb")
    | _floats("ctx_scale ctx_shift ctx_slope", "channels")
    | _floats("ctx_weight_scale", "channels", when=_LAYER)
)
_PROJECTIONS = (
    _weights("qkv_weight", "3", "tiles(channels)", "channels")
    | _floats("in_threshold qkv_scale qkv_shift qkv_slope qkv_threshold", "3", "channels")
    | _floats("qkv_weight_scale", "3", "channels", when=_LAYER)
    | _weights("proj_weight", "tiles(channels)", "channels")
    | _floats("mix_shift proj_threshold proj_scale proj_shift proj_slope out_scale out_shift", "channels")
    | _floats("proj_weight_scale", "channels", when=_LAYER)
)
_QUANTISED = ("norm", "weights", "activations")

OPS: Mapping[str, OpSchema] = {
    # height and width of the stem are tokens: the image is (in_chans, height*patch, width*patch).
    "stem": OpSchema(
        ("height", "width", "in_chans", "patch", "channels"),
        ("norm", "activation"),
        _floats("weight", "tiles(channels)", "in_chans * patch * patch", str(LANES))
        | _floats("bias", "channels")
        | _floats("norm_scale norm_shift", "channels", when=_LAYER)
        | _floats("position", "height * width", "channels"),
        rules=(_WHOLE_WORDS,),
    ),
    "mixer": OpSchema(
        ("height", "width", "channels", "groups"),
        _QUANTISED,
        _NORM
        | _weights("weight", "3", "tiles(channels)", "9 * channels // groups")
        | _floats("scale shift slope", "3", "channels")
        | _floats("sum_shift", "channels", when=_LAYER)
        | _floats("out_scale out_shift", "channels"),
        rules=(("channels % (16 * groups) == 0", "channels must be a multiple of 16 per group"),),
    ),
    "pooling": OpSchema(
        ("height", "width", "channels"),
        ("norm",),
        _NORM | _floats("out_scale out_shift", "channels"),
        rules=(_WHOLE_WORDS,),
    ),
    "mlp": OpSchema(
        ("height", "width", "channels", "hidden"),
        (*_QUANTISED, "border"),
        _NORM
        | _weights("weight1", "tiles(hidden)", "channels")
        | _floats("threshold1", "channels")
        | _floats("scale1 shift1 slope1", "hidden")
        | _floats("weight_scale1", "hidden", when=_LAYER)
        | _weights("weight2", "tiles(channels)", "hidden")
        | _floats("threshold2", "hidden")
        | _floats("scale2 shift2 slope2 out_scale out_shift", "channels")
        | _floats("weight_scale2", "channels", when=_LAYER)
        | _floats("taps", "9", "channels"),
        rules=(
            _WHOLE_WORDS,
            (
                "hidden % channels == 0 and channels % (hidden // channels) == 0",
                "hidden must be r*channels with r a divisor of channels",
            ),
        ),
    ),
    "attention": OpSchema(
        ("height", "width", "channels", "heads", "window_h", "window_w"),
        (*_QUANTISED, "quantizer"),
        _NORM
        | _floats("pool_max pool_avg token_scale token_shift", "channels")
        | _PROJECTIONS
        | _ATTEND
        | _floats("mix_local mix_global", "channels"),
        rules=(
            _HEADS,
            ("height % window_h == 0 and width % window_w == 0", "windows must divide the grid"),
            (
                f"window_h * window_w + height // window_h * (width // window_w) <= {MAX_KEYS}",
                f"at most {MAX_KEYS} keys a window",
            ),
        ),
    ),
    "pooled_attention": OpSchema(
        ("height", "width", "channels", "heads", "key_pool"),
        (*_QUANTISED, "quantizer"),
        _NORM
        | _weights("reduce_weight", "tiles(channels)", "channels", when="key_pool>1")
        | _floats(
            "reduce_threshold reduce_scale reduce_shift_in reduce_slope reduce_shift", "channels", when="key_pool>1"
        )
        | _floats("reduce_weight_scale", "channels", when="key_pool>1 norm=layer")
        | _PROJECTIONS
        | _ATTEND,
        rules=(
            _HEADS,
            ("height % key_pool == 0 and width % key_pool == 0", "key_pool must divide the grid"),
            (f"height * width // (key_pool * key_pool) <= {MAX_KEYS}", f"at most {MAX_KEYS} keys"),
        ),
    ),
    "downsample": OpSchema(
        ("height", "width", "channels", "out_channels"),
        _QUANTISED,
        _NORM
        | _weights("weight", "tiles(out_channels)", "4 * channels")
        | _floats("threshold", "channels")
        | _floats("scale shift slope out_shift", "out_channels")
        | _floats("weight_scale", "out_channels", when=_LAYER)
        | _floats("position", "height * width // 4", "out_channels"),
        rules=_DOWNSAMPLING,
        output=_HALVED,
    ),
    "downsample_float": OpSchema(
        ("height", "width", "channels", "out_channels"),
        ("norm",),
        _floats("weight", "tiles(out_channels)", "4 * channels", str(LANES))
        | _floats("bias", "out_channels", when=_BATCH)
        | _floats("norm_scale norm_shift", "channels", when=_LAYER)
        | _floats("scale shift", "out_channels", when=_LAYER)
        | _floats("position", "height * width // 4", "out_channels"),
        rules=_DOWNSAMPLING,
        output=_HALVED,
    ),
    "head": OpSchema(
        ("height", "width", "channels", "classes"),
        ("norm",),
        _NORM | _floats("weight", "tiles(classes)", "channels", str(LANES)) | _floats("bias", "classes"),
        output=("1", "1", "classes"),
    ),
}
