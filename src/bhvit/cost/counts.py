"""Cost of a model: parameters, bits and multiply-accumulates, counted from its spec.

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

import math

from ..format.file import Description, PackedModel, header
from ..format.float_storage import FloatStorage, Layout, layout
from ..format.op_cost import OpCost
from ..format.ops import OPS
from ..format.program import program, stage_of
from ..spec.model import ModelSpec


def op_costs(spec: ModelSpec) -> list[OpCost]:
    """Return the cost of each op of `spec`, in order and under its name."""
    costs = []
    for op in program(spec):
        of_decoder = op.name.startswith("head.blocks.")
        network, stage = (spec.decoder, 0) if of_decoder else (spec, stage_of(op, spec))
        costs.append(OPS[op.kind].cost(network, stage, op.name))
    return costs


def total(costs: list[OpCost]) -> OpCost:
    """The sum of all costs."""
    fields = ("binary_macs", "executed_binary_macs", "float_macs", "binary_parameters", "float_parameters")
    return OpCost(
        name="total", kind="total", **{field: sum(getattr(cost, field) for cost in costs) for field in fields}
    )


def bytes_by_kind(model: PackedModel) -> dict[str, int]:
    """Return the bytes of a packed model's tensors by kind: bits, float32, float16 and int8."""
    return _bytes_by_kind({name: (tensor.dtype, tensor.shape) for name, tensor in model.tensors.items()})


def packed_bytes(described: Description, float_storage: FloatStorage | None = None) -> dict[str, int]:
    """Return the bytes of a model's packed file by kind, before packing it.

    Kinds are those of `bytes_by_kind`, and "header".

    Raises UserError for what cannot be packed.
    """
    ops = program(described.spec)
    stored = layout(ops, float_storage or described.spec.float_storage)
    return {**_bytes_by_kind(stored), "header": len(header(described, ops, stored)[1])}


def _bytes_by_kind(layout: Layout) -> dict[str, int]:
    sizes = {"bits": 0, "float32": 0, "float16": 0, "int8": 0}
    for dtype, shape in layout.values():
        sizes["bits" if dtype.kind == "u" else dtype.name] += dtype.itemsize * math.prod(shape)
    return sizes
