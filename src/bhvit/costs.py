"""What a model costs: parameters, bits and multiply-accumulates, counted from its op program.

The counting is the one that gives the published columns (BHViT, Gao et al., CVPR 2025), at 224x224:

* A binary multiply-accumulate (one BOP) is one product of two signs in a mixer's convolutions, the MLP,
  the attention's projections, the binary downsampling, and the two matrix products of attention; the
  quantised attention matrix counts as one bit. Taps outside the image count like those inside.
* Attention counts every window on its own: its tokens followed by all global tokens, so a global token
  is projected to q, k and v once a window. (The engine projects it once; `executed_binary_macs` says
  what it really does.)
* A full-precision multiply-accumulate (one FLOP) is one in the stem, in the classifier and, in the †
  (`_fp`) variants, in the downsampling layers.
* OPs = BOPs / 64 + FLOPs. Norms, activations, scales, shifts and pooling are left out, as published.
* Parameters are what training learns: weights, biases, norms' scales and shifts, activations, position
  maps. Those of binary layers become one bit each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from .errors import UserError
from .format import PackedModel
from .ops import Op, program
from .spec import DILATIONS, ModelSpec

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
    """The cost of each op of `spec`'s program, in order. Raises UserError for an op without a count."""
    return [_count(op, spec) for op in program(spec)]


def total(costs: list[OpCost]) -> OpCost:
    """The sum of all costs."""
    fields = ("binary_macs", "executed_binary_macs", "float_macs", "binary_parameters", "float_parameters")
    return OpCost(
        name="total", kind="total", **{field: sum(getattr(cost, field) for cost in costs) for field in fields}
    )


def bytes_by_kind(model: PackedModel) -> dict[str, int]:
    """Bytes of a packed model's tensors: "bits", "float32", "float16"."""
    sizes = {"bits": 0, "float32": 0, "float16": 0}
    for tensor in model.tensors.values():
        sizes["bits" if tensor.dtype.kind == "u" else tensor.dtype.name] += tensor.nbytes
    return sizes


def _stem(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    tokens, channels = a["height"] * a["width"], a["channels"]
    weights = a["in_chans"] * a["patch"] ** 2 * channels
    # convolution and its bias, norm, position map
    return {"float_macs": tokens * weights, "float_parameters": weights + 3 * channels + tokens * channels}


def _mixer(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    channels, branches = a["channels"], len(DILATIONS)
    weights = branches * channels * 9 * (channels // a["groups"])
    macs = a["height"] * a["width"] * weights
    # norm before, move; a bias and an RPReLU a branch; norm after
    return {"binary_macs": macs, "executed_binary_macs": macs, "binary_parameters": weights,
            "float_parameters": (2 + 1 + branches * 4 + 2) * channels}  # fmt: skip


def _mlp(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    channels, hidden = a["channels"], a["hidden"]
    weights = 2 * channels * hidden
    macs = a["height"] * a["width"] * weights
    # norm, move, second norm, RPReLU, LayerScale; of the hidden channels norm, RPReLU, move;
    # shift branches: three a width, each a LayerScale
    return {"binary_macs": macs, "executed_binary_macs": macs, "binary_parameters": weights,
            "float_parameters": (10 + 6 * len(spec.shifts)) * channels + 6 * hidden}  # fmt: skip


def _attention(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    channels, tokens = a["channels"], a["height"] * a["width"]
    windows = tokens // (a["window_h"] * a["window_w"])
    keys = a["window_h"] * a["window_w"] + windows
    square = channels * channels
    products = 2 * windows * keys * keys * channels  # q k^T and P v
    return {
        "binary_macs": 3 * windows * keys * square + products + tokens * square,
        "executed_binary_macs": 3 * (tokens + windows) * square + products + tokens * square,
        "binary_parameters": 4 * square,
        # norm, pooling mix, LayerNorm; q, k, v: two moves, norm, RPReLU each; norm, RPReLU, mix;
        # output: move, norm, RPReLU, LayerScale; step and offset a head
        "float_parameters": (2 + 1 + 2 + 3 * 7 + 2 + 3 + 1 + 8) * channels + 2 * a["heads"],
    }


def _downsample(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    channels, outputs, tokens = a["channels"], a["out_channels"], a["height"] * a["width"] // 4
    weights = 4 * channels * outputs
    # norm before, move; norm, RPReLU; position map
    return {"binary_macs": tokens * weights, "executed_binary_macs": tokens * weights, "binary_parameters": weights,
            "float_parameters": 3 * channels + 5 * outputs + tokens * outputs}  # fmt: skip


def _downsample_float(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    channels, outputs, tokens = a["channels"], a["out_channels"], a["height"] * a["width"] // 4
    weights = 4 * channels * outputs
    # norm before; norm after; position map
    return {"float_macs": tokens * weights,
            "float_parameters": weights + 2 * channels + 2 * outputs + tokens * outputs}  # fmt: skip


def _head(a: Mapping[str, int], spec: ModelSpec) -> dict[str, int]:
    weights = a["channels"] * a["classes"]
    return {"float_macs": weights, "float_parameters": weights + a["classes"] + 2 * a["channels"]}


_COUNTS: Mapping[str, Callable[[Mapping[str, int], ModelSpec], dict[str, int]]] = {
    "stem": _stem,
    "mixer": _mixer,
    "mlp": _mlp,
    "attention": _attention,
    "downsample": _downsample,
    "downsample_float": _downsample_float,
    "head": _head,
}


def _count(op: Op, spec: ModelSpec) -> OpCost:
    if op.kind not in _COUNTS:
        raise UserError(f"op {op.name}: the cost of a {op.kind} is not known")
    counts: dict[str, Any] = _COUNTS[op.kind](op.attributes, spec)
    return OpCost(name=op.name, kind=op.kind, **counts)
