"""What a model costs: parameters, bits and multiply-accumulates, counted from its spec.

The counting is the one that gives the published columns (BHViT, Gao et al., CVPR 2025), at 224x224:

* A binary multiply-accumulate (one BOP) is one product of two signs in a mixer's convolutions, the MLP,
  the attention's projections, the binary downsampling, and the two matrix products of attention; the
  quantised attention matrix counts as one bit. Taps outside the image count like those inside.
* Attention counts every window on its own: its tokens followed by all global tokens, so a global token
  is projected to q, k and v once a window. (The engine projects it once; `executed_binary_macs` says
  what it really does.)
* A full-precision multiply-accumulate (one FLOP) is one in the stem, in the classifier and, in the †
  (`_fp`) variants, in the downsampling layers; and in stages that are not binary.
* OPs = BOPs / 64 + FLOPs. Norms, activations, scales, shifts and pooling are left out, as published.
* Parameters are what training learns: weights, biases, norms' scales and shifts, activations, position
  maps. Those of binary layers become one bit each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from ..format.file import Description, PackedModel, header
from ..format.float_storage import Layout, Leftovers, layout
from ..format.program import program
from ..spec.model import DILATIONS, MIXER_GROUPS, ModelSpec, StageSpec

BINARY_PER_FLOAT = 64
"""Binary multiply-accumulates that count as one operation: the width of a word."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpCost:
    """What one op costs an image. Counts, not bytes."""

    name: str
    kind: str
    binary_macs: int = 0
    executed_binary_macs: int = 0
    """As `binary_macs`, but with each global token of attention projected once, as the engine does."""
    float_macs: int = 0
    binary_parameters: int = 0
    float_parameters: int = 0

    @property
    def ops(self) -> float:
        """BOPs / 64 + FLOPs."""
        return self.binary_macs / BINARY_PER_FLOAT + self.float_macs

    @property
    def parameters(self) -> int:
        """Learned numbers, binary and full precision."""
        return self.binary_parameters + self.float_parameters


def op_costs(spec: ModelSpec) -> list[OpCost]:
    """The cost of each part of `spec`, in order; parts that a packed program has are named as its ops."""
    return list(_parts(spec))


def total(costs: list[OpCost]) -> OpCost:
    """The sum of all costs."""
    fields = ("binary_macs", "executed_binary_macs", "float_macs", "binary_parameters", "float_parameters")
    return OpCost(
        name="total", kind="total", **{field: sum(getattr(cost, field) for cost in costs) for field in fields}
    )


def bytes_by_kind(model: PackedModel) -> dict[str, int]:
    """Bytes of a packed model's tensors: "bits", "float32", "float16", "int8"."""
    return _bytes_by_kind({name: (tensor.dtype, tensor.shape) for name, tensor in model.tensors.items()})


def packed_bytes(described: Description, leftovers: Leftovers | None = None) -> dict[str, int]:
    """Bytes of the file that a model so described would be packed into, by kind as above, and "header".

    Raises UserError for what cannot be packed.
    """
    ops = program(described.spec)
    stored = layout(ops, leftovers or described.spec.leftovers)
    return {**_bytes_by_kind(stored), "header": len(header(described, ops, stored)[1])}


def _bytes_by_kind(layout: Layout) -> dict[str, int]:
    sizes = {"bits": 0, "float32": 0, "float16": 0, "int8": 0}
    for dtype, shape in layout.values():
        sizes["bits" if dtype.kind == "u" else dtype.name] += dtype.itemsize * math.prod(shape)
    return sizes


def _parts(spec: ModelSpec) -> Iterator[OpCost]:
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    weights = spec.in_chans * spec.patch**2 * channels
    # convolution and its bias, norm, position map
    yield OpCost(
        name="stem",
        kind="stem",
        float_macs=height * width * weights,
        float_parameters=weights + (1 + _NORM + height * width) * channels,
    )
    for index, stage in enumerate(spec.stages):
        tokens = math.prod(spec.grid(index))
        if index:
            yield _downsample(spec, index, tokens)
        for block in range(stage.depth):
            name = f"stages.{index}.{block}"
            if stage.mixer == "conv":
                yield _mixer(stage, f"{name}.mixer", tokens)
            elif stage.mixer == "pooling":
                yield OpCost(name=f"{name}.mixer", kind="pooling", float_parameters=2 * _NORM * stage.channels)
            elif stage.mixer == "attention":
                yield _window_attention(spec, index, f"{name}.mixer", tokens)
            else:
                yield _pooled_attention(spec, stage, f"{name}.mixer", tokens)
            yield _mlp(spec, stage, f"{name}.mlp", tokens)
    channels = spec.stages[-1].channels
    yield OpCost(
        name="head",
        kind="head",
        float_macs=channels * spec.num_classes,
        float_parameters=(channels + 1) * spec.num_classes + _NORM * channels,
    )


# Learned numbers a channel of the parts that blocks are made of.
_NORM, _MOVE, _RPRELU, _LAYER_SCALE, _BIAS, _MIX = 2, 1, 3, 2, 1, 1
_QUANTIZER = {"decomposition": (2, 0), "gsb": (0, 3), "one_bit": (0, 1)}
"""Learned numbers of each quantiser of the attention matrix: a head, and a layer."""


def _part(
    stage: StageSpec, name: str, kind: str, *, weights: int, floats: int, macs: int, executed: int | None = None
) -> OpCost:
    """A part whose `weights` and `macs` are binary if the stage has it so."""
    binary = (stage.weight_bits, stage.activation_bits) == (1, 1)
    return OpCost(
        name=name,
        kind=kind,
        binary_macs=macs if binary else 0,
        executed_binary_macs=(macs if executed is None else executed) if binary else 0,
        float_macs=0 if binary else macs,
        binary_parameters=weights if stage.weight_bits == 1 else 0,
        float_parameters=floats + (0 if stage.weight_bits == 1 else weights),
    )


def _mixer(stage: StageSpec, name: str, tokens: int) -> OpCost:
    channels, branches = stage.channels, len(DILATIONS)
    weights = branches * channels * 9 * (channels // MIXER_GROUPS)
    floats = (_NORM + _MOVE + branches * (_BIAS + _RPRELU) + _NORM) * channels
    return _part(stage, name, "mixer", weights=weights, floats=floats, macs=tokens * weights)


def _mlp(spec: ModelSpec, stage: StageSpec, name: str, tokens: int) -> OpCost:
    channels, hidden = stage.channels, stage.hidden
    weights = 2 * channels * hidden
    floats = (_NORM + _MOVE + _NORM + _RPRELU + _LAYER_SCALE) * channels + (_NORM + _RPRELU + _MOVE) * hidden
    # Beside it: means along H and along W and, of shift branches, a channel shift for each width.
    floats += len(spec.shifts) * (3 if spec.branches == "shift" else 2) * _LAYER_SCALE * channels
    return _part(stage, name, "mlp", weights=weights, floats=floats, macs=tokens * weights)


def _attention_floats(spec: ModelSpec, stage: StageSpec) -> int:
    """Of the norm before, q, k and v, the matrix's quantiser, the norm and activation after, and the output."""
    projection = _MOVE + _NORM + _RPRELU + _MOVE
    output = _MOVE + _NORM + _RPRELU + _LAYER_SCALE
    a_head, a_layer = _QUANTIZER[spec.attention] if stage.activation_bits == 1 else (0, 0)
    quantizer = a_head * stage.heads + a_layer
    return (_NORM + 3 * projection + _NORM + _RPRELU + output) * stage.channels + quantizer


def _window_attention(spec: ModelSpec, index: int, name: str, tokens: int) -> OpCost:
    stage = spec.stages[index]
    square = stage.channels**2
    length = math.prod(spec.window(index))
    windows = tokens // length
    keys = length + windows
    products = 2 * windows * keys * keys * stage.channels  # q k^T and P v
    # Also: the mixes of the two poolings and of local and global, the layer norm of the tokens.
    return _part(
        stage,
        name,
        "attention",
        weights=4 * square,
        floats=_attention_floats(spec, stage) + (_MIX + _NORM + _MIX) * stage.channels,
        macs=3 * windows * keys * square + products + tokens * square,
        executed=3 * (tokens + windows) * square + products + tokens * square,
    )


def _pooled_attention(spec: ModelSpec, stage: StageSpec, name: str, tokens: int) -> OpCost:
    square, pooled = stage.channels**2, stage.key_pool > 1
    keys = tokens // stage.key_pool**2
    macs = (2 * tokens + (3 if pooled else 2) * keys) * square + 2 * tokens * keys * stage.channels
    reduction = (_MOVE + _NORM + _RPRELU) * stage.channels if pooled else 0
    return _part(
        stage,
        name,
        "pooled_attention",
        weights=(5 if pooled else 4) * square,
        floats=_attention_floats(spec, stage) + reduction,
        macs=macs,
    )


def _downsample(spec: ModelSpec, index: int, tokens: int) -> OpCost:
    name, stage = f"downsamples.{index - 1}", spec.stages[index]
    channels, outputs = spec.stages[index - 1].channels, stage.channels
    weights = 4 * channels * outputs
    floats = _NORM * channels + (_NORM + tokens) * outputs  # a norm before and after, position map
    if spec.downsample == "float":
        return OpCost(
            name=name, kind="downsample_float", float_macs=tokens * weights, float_parameters=weights + floats
        )
    floats += _MOVE * channels + _RPRELU * outputs
    return _part(stage, name, "downsample", weights=weights, floats=floats, macs=tokens * weights)
