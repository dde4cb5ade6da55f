"""The schema of the op program: attributes, options and limits of each op, and the shapes of its tensors.

`ops` says what each op computes. `native/schema.cc` mirrors this file; a test compares the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from ..bits import LANES
from ..errors import FormatError
from ..spec.limits import MAX_KEYS

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

    `shape` is in names that `derive` gives values, or numbers. A tensor of `weights` ends in (output tiles, inputs):
    it is stored as bits (tiles, words, 16), or, if the option `weights` is "float", as floats
    (tiles, inputs, 16). `when`, "option=value" or "attribute>1", says which ops have the tensor.
    """

    shape: tuple[str, ...]
    weights: bool = False
    when: str = ""


@dataclasses.dataclass(frozen=True)
class OpSchema:
    """Attributes and options of an op, and its tensors."""

    attributes: tuple[str, ...]
    options: tuple[str, ...]
    tensors: Mapping[str, TensorRule]
    derive: Callable[[Dims], Dims]
    """Attributes -> sizes used by the tensors' shapes. Raises FormatError on impossible attributes."""


def require(condition: bool, message: str) -> None:
    """Raises FormatError with the message unless the condition holds."""
    if not condition:
        raise FormatError(message)


def _tiles(channels: int) -> int:
    return -(-channels // LANES)


def _stem(a: Dims) -> Dims:
    require(a["channels"] % 32 == 0, "channels must be a multiple of 32")
    return {"C": a["channels"], "Ct": _tiles(a["channels"]), "N": a["height"] * a["width"],
            "K": a["in_chans"] * a["patch"] ** 2}  # fmt: skip


def _mixer(a: Dims) -> Dims:
    require(a["channels"] % (LANES * a["groups"]) == 0, f"channels must be a multiple of {LANES} per group")
    return {"C": a["channels"], "Ct": _tiles(a["channels"]), "D": 3, "K": 9 * a["channels"] // a["groups"]}


def _pooling(a: Dims) -> Dims:
    require(a["channels"] % 32 == 0, "channels must be a multiple of 32")
    return {"C": a["channels"]}


def _mlp(a: Dims) -> Dims:
    channels, hidden = a["channels"], a["hidden"]
    require(channels % 32 == 0, "channels must be a multiple of 32")
    require(hidden % channels == 0 and channels % (hidden // channels) == 0,
             "hidden must be r*channels with r a divisor of channels")  # fmt: skip
    return {"C": channels, "F": hidden, "Ct": _tiles(channels), "Ft": _tiles(hidden), "T": 9}


def _heads(a: Dims) -> Dims:
    channels, heads = a["channels"], a["heads"]
    require(channels % (32 * heads) == 0, "channels per head must be a multiple of 32")
    return {"C": channels, "Ct": _tiles(channels), "P": 3, "E": channels // heads + 1, "heads": heads}


def _attention(a: Dims) -> Dims:
    sizes = _heads(a)
    require(a["height"] % a["window_h"] == 0 and a["width"] % a["window_w"] == 0,
             "windows must divide the grid")  # fmt: skip
    windows = a["height"] // a["window_h"] * (a["width"] // a["window_w"])
    require(a["window_h"] * a["window_w"] + windows <= MAX_KEYS, f"at most {MAX_KEYS} keys a window")
    return sizes


def _pooled_attention(a: Dims) -> Dims:
    sizes = _heads(a)
    require(a["height"] % a["key_pool"] == 0 and a["width"] % a["key_pool"] == 0, "key_pool must divide the grid")
    require(a["height"] * a["width"] // a["key_pool"] ** 2 <= MAX_KEYS, f"at most {MAX_KEYS} keys")
    return sizes


def _downsample(a: Dims) -> Dims:
    require(a["channels"] % 32 == 0 and a["out_channels"] % 32 == 0, "channels must be multiples of 32")
    require(a["out_channels"] % a["channels"] == 0, "out_channels must be a multiple of channels")
    require(a["height"] % 2 == 0 and a["width"] % 2 == 0, "height and width must be even")
    return {"C": a["channels"], "O": a["out_channels"], "Ot": _tiles(a["out_channels"]), "K": 4 * a["channels"],
            "N": a["height"] * a["width"] // 4}  # fmt: skip


def _head(a: Dims) -> Dims:
    return {"C": a["channels"], "K": a["classes"], "Kt": _tiles(a["classes"])}


def _floats(names: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    return {name: TensorRule(shape, when=when) for name in names.split()}


def _weights(name: str, *shape: str, when: str = "") -> dict[str, TensorRule]:
    return {name: TensorRule(shape, weights=True, when=when)}


_LAYER, _BATCH = "norm=layer", "norm=batch"
_NORM = _floats("norm_scale norm_shift", "C")
_ATTEND = (
    _floats("exp_table", "E", when="activations=binary")
    | _floats("level_scale level_shift", "heads", when="activations=binary")
    | _floats("plane_scale", "2", when="quantizer=gsb")
    | _floats("ctx_scale ctx_shift ctx_slope", "C")
    | _floats("ctx_weight_scale", "C", when=_LAYER)
)
_PROJECTIONS = (
    _weights("qkv_weight", "P", "Ct", "C")
    | _floats("in_threshold qkv_scale qkv_shift qkv_slope qkv_threshold", "P", "C")
    | _floats("qkv_weight_scale", "P", "C", when=_LAYER)
    | _weights("proj_weight", "Ct", "C")
    | _floats("mix_shift proj_threshold proj_scale proj_shift proj_slope out_scale out_shift", "C")
    | _floats("proj_weight_scale", "C", when=_LAYER)
)
_QUANTISED = ("norm", "weights", "activations")

OPS: Mapping[str, OpSchema] = {
    # height and width of the stem are tokens: the image is (in_chans, height*patch, width*patch).
    "stem": OpSchema(
        ("height", "width", "in_chans", "patch", "channels"),
        ("norm", "activation"),
        _floats("weight", "Ct", "K", str(LANES))
        | _floats("bias", "C")
        | _floats("norm_scale norm_shift", "C", when=_LAYER)
        | _floats("position", "N", "C"),
        _stem,
    ),
    "mixer": OpSchema(
        ("height", "width", "channels", "groups"),
        _QUANTISED,
        _NORM
        | _weights("weight", "D", "Ct", "K")
        | _floats("scale shift slope", "D", "C")
        | _floats("sum_shift", "C", when=_LAYER)
        | _floats("out_scale out_shift", "C"),
        _mixer,
    ),
    "pooling": OpSchema(
        ("height", "width", "channels"), ("norm",), _NORM | _floats("out_scale out_shift", "C"), _pooling
    ),
    "mlp": OpSchema(
        ("height", "width", "channels", "hidden"),
        (*_QUANTISED, "border"),
        _NORM
        | _weights("weight1", "Ft", "C")
        | _floats("threshold1", "C")
        | _floats("scale1 shift1 slope1", "F")
        | _floats("weight_scale1", "F", when=_LAYER)
        | _weights("weight2", "Ct", "F")
        | _floats("threshold2", "F")
        | _floats("scale2 shift2 slope2 out_scale out_shift", "C")
        | _floats("weight_scale2", "C", when=_LAYER)
        | _floats("taps", "T", "C"),
        _mlp,
    ),
    "attention": OpSchema(
        ("height", "width", "channels", "heads", "window_h", "window_w"),
        (*_QUANTISED, "quantizer"),
        _NORM
        | _floats("pool_max pool_avg token_scale token_shift", "C")
        | _PROJECTIONS
        | _ATTEND
        | _floats("mix_local mix_global", "C"),
        _attention,
    ),
    "pooled_attention": OpSchema(
        ("height", "width", "channels", "heads", "key_pool"),
        (*_QUANTISED, "quantizer"),
        _NORM
        | _weights("reduce_weight", "Ct", "C", when="key_pool>1")
        | _floats("reduce_threshold reduce_scale reduce_shift_in reduce_slope reduce_shift", "C", when="key_pool>1")
        | _floats("reduce_weight_scale", "C", when="key_pool>1 norm=layer")
        | _PROJECTIONS
        | _ATTEND,
        _pooled_attention,
    ),
    "downsample": OpSchema(
        ("height", "width", "channels", "out_channels"),
        _QUANTISED,
        _NORM
        | _weights("weight", "Ot", "K")
        | _floats("threshold", "C")
        | _floats("scale shift slope out_shift", "O")
        | _floats("weight_scale", "O", when=_LAYER)
        | _floats("position", "N", "O"),
        _downsample,
    ),
    "downsample_float": OpSchema(
        ("height", "width", "channels", "out_channels"),
        ("norm",),
        _floats("weight", "Ot", "K", str(LANES))
        | _floats("bias", "O", when=_BATCH)
        | _floats("norm_scale norm_shift", "C", when=_LAYER)
        | _floats("scale shift", "O", when=_LAYER)
        | _floats("position", "N", "O"),
        _downsample,
    ),
    "head": OpSchema(
        ("height", "width", "channels", "classes"),
        ("norm",),
        _NORM | _floats("weight", "Kt", "C", str(LANES)) | _floats("bias", "K"),
        _head,
    ),
}
