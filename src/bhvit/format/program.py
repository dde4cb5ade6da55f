"""The op program of a `.bhv` file: what ops compute, and their limits.

A program is a list of coarse ops. Each writes one value, which has the op's name: x, a grid of tokens, float32
(H, W, C), C innermost. It reads the value of the op before it, or those that its `reads` names, all of ops before it;
every value but the last is read. The first op is `stem` (image -> x), the last is `head` (x -> logits) or `segment`
(x -> logits of each pixel). Where an op's file says x += …, it writes the sum; what it read stays as it was for others.
Each file of `ops` gives the arithmetic of one op, in words and in
NumPy; `native/` is the same in C++. All are bit-identical, because the arithmetic is fixed:

* every float operation is IEEE float32, rounded by itself (no fused multiply-add), in the order
  written; `a*s + t` is one product and one sum;
* sign(v) is +1 where v >= 0; bits are as in `bits`;
* sum16(v) over a length: 16 partial sums, lane l adding elements l, l+16, l+32, ... in order, then
  lanes l and l+8 are added, then l and l+4, l+2, l+1. Absent elements are left out (they count 0);
* prelu(v, s) = v where v > 0, else v*s; e^v and erf(v) are `exp32` and `erf32` of `arithmetic`;
* norm(v, s, t) of a token's channels, by the option `norm`: "batch" v*s + t; "layer"
  ((v - mean)*(1/sqrt(var + eps)))*s + t, mean = sum16(v)/C, var = sum16((v-mean)^2)/C, eps = NORM_EPS;
* product(v, threshold, weight) of K inputs, by the options `activations` and `weights`. Both "binary": the
  signs v >= threshold times the weights' signs, an exact integer, converted to float32. Otherwise
  0 + a_0*w_0 + a_1*w_1 + ... in order, a = +-1 as before, or v - threshold if activations are
  "float"; w = +-1, or the stored numbers if weights are "float". Taps outside the grid are left out;
* linear_i(v) = norm(product(v, threshold_i, weight_i), scale_i, shift_i); with norm "layer" the product is
  first multiplied by weight_scale_i.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ..errors import UserError
from ..spec.limits import MAX_OPS
from ..spec.mixers import MIXER_GROUPS, MIXER_RULES
from ..spec.model import MAX_GRID_FLOATS, ModelSpec
from .op import Op
from .ops import OPS
from .schema import OPTIONS, Dims, require

HEADS = {"head": "classify", "segment": "segment"}
"""Kinds of a last op, each with the task that it is for."""


def check_graph(ops: Sequence[Op]) -> list[tuple[int, ...]]:
    """Return the numbers of the ops whose values each op reads.

    Raises FormatError unless the ops run from a stem to a head, each reads values of its sizes that ops before it
    wrote, and every value is read.
    """
    require(2 <= len(ops) <= MAX_OPS, f"a program has 2 to {MAX_OPS} ops, not {len(ops)}")
    names = {op.name: index for index, op in enumerate(ops)}
    require(len(names) == len(ops), "two ops have one name")
    reads = []
    unread = set(range(len(ops) - 1))
    for index, op in enumerate(ops):
        require((op.kind == "stem") == (index == 0), f"op {op.name}: a stem comes first and only there")
        require((op.kind in HEADS) == (index == len(ops) - 1), f"op {op.name}: a head comes last and only there")
        height, width, channels = op.output()
        require(
            height * width * channels <= MAX_GRID_FLOATS,
            f"op {op.name}: a grid of {height}x{width}x{channels} is over the limit",
        )
        sources = _sources(op, index, names)
        for source, wanted in zip(sources, op.inputs(), strict=True):
            given = ops[source].output()
            require(
                wanted == given,
                f"op {op.name}: takes {'x'.join(map(str, wanted))}, but {ops[source].name} gives "
                + "x".join(map(str, given)),
            )
        unread -= set(sources)
        reads.append(sources)
    for index in sorted(unread):
        require(False, f"op {ops[index].name}: no op reads what it gives")
    stem, last = ops[0].attributes, ops[-1]
    if last.kind == "segment":
        image, labels = (stem["height"] * stem["patch"], stem["width"] * stem["patch"]), last.output()[:2]
        require(
            image == labels,
            f"op {last.name}: labels {labels[0]}x{labels[1]} pixels, but images have {image[0]}x{image[1]}",
        )
    return reads


def _sources(op: Op, index: int, names: Mapping[str, int]) -> tuple[int, ...]:
    """The numbers of the ops that op number `index` reads."""
    count = len(op.schema.inputs)
    if op.reads is None:
        require(count <= 1, f"op {op.name}: reads names the {count} values that a {op.kind} takes")
        return (index - 1,) * count
    require(len(op.reads) == count, f"op {op.name}: reads {len(op.reads)} values, but a {op.kind} takes {count}")
    for name in op.reads:
        require(name in names, f"op {op.name}: reads {name}, which no op gives")
        require(names[name] < index, f"op {op.name}: reads {name} before it is given")
    require(len(set(op.reads)) == count, f"op {op.name}: reads one value twice")
    sources = tuple(names[name] for name in op.reads)
    require(count > 1 or sources != (index - 1,) * count, f"op {op.name}: reads is left out where it is the op before")
    return sources


def program(spec: ModelSpec) -> list[Op]:
    """Return the ops of an architecture, in order.

    Their tensors come from a trained model (`pack`).

    Raises UserError for a spec with registered names: it has no ops until packing lowers it.
    """
    if names := spec.registered:
        raise UserError(f"{spec.name} uses {', '.join(names)}, which no op computes: only its packed file has ops")
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    last_of_stages = []
    ops = [
        _op(
            "stem",
            "stem",
            {
                "height": height,
                "width": width,
                "in_chans": spec.in_chans,
                "patch": spec.patch,
                "kernel": spec.kernel,
                "channels": channels,
            },
            norm=spec.norm,
            activation=spec.stem_activation,
        )
    ]
    for index, stage in enumerate(spec.stages):
        quantised = _quantised(spec, index)
        if index:
            sizes = {"height": height, "width": width, "channels": channels, "out_channels": stage.channels}
            name = f"downsamples.{index - 1}"
            if spec.downsample == "binary":
                ops.append(_op("downsample", name, sizes, **quantised))
            else:
                ops.append(_op("downsample_float", name, sizes, norm=spec.norm))
            height, width, channels = ops[-1].output()
        ops += _blocks(spec, index, f"stages.{index}")
        last_of_stages.append(ops[-1])
    if spec.task == "segment":
        return [*ops, *_decoder(spec, last_of_stages)]
    sizes = {"height": height, "width": width, "channels": channels, "classes": spec.num_classes}
    return [*ops, _op("head", "head", sizes, norm=spec.norm)]


def _blocks(spec: ModelSpec, index: int, prefix: str) -> list[Op]:
    """Return the ops of a stage's blocks, with the attributes their schemas name."""
    stage, (height, width), (window_h, window_w) = spec.stages[index], spec.grid(index), spec.window(index)
    sizes = {
        "height": height,
        "width": width,
        "channels": stage.channels,
        "groups": MIXER_GROUPS,
        "heads": stage.heads,
        "window_h": window_h,
        "window_w": window_w,
        "key_pool": stage.key_pool,
        "hidden": stage.hidden,
    }
    options = {
        **_quantised(spec, index),
        "quantizer": spec.attention if stage.activation_bits == 1 else "decomposition",
        "border": "zero" if spec.branches == "pool" else "cyclic",
    }
    ops = []
    for block in range(stage.depth):
        for part, kind in (("mixer", MIXER_RULES[stage.mixer].op), ("mlp", "mlp")):
            schema = OPS[kind].schema
            taken = {option: options[option] for option in schema.options}
            attributes = {attribute: sizes[attribute] for attribute in schema.attributes}
            ops.append(_op(kind, f"{prefix}.{block}.{part}", attributes, **taken))
    return ops


def _decoder(spec: ModelSpec, last_of_stages: Sequence[Op]) -> list[Op]:
    """Return the ops of a segmentation after its stages, coarsest grid first.

    `last_of_stages` are the last ops of the stages.
    """
    outputs = spec.decoder_channels
    ops: list[Op] = []
    for index in reversed(range(len(spec.stages))):
        height, width = spec.grid(index)
        sizes = {"height": height, "width": width, "channels": spec.stages[index].channels, "out_channels": outputs}
        coarse = ops[-1].name if ops else None
        lateral = _op("lateral", f"head.laterals.{index}", sizes, **_quantised(spec, index))
        ops.append(lateral if coarse is None else _reading(lateral, last_of_stages[index].name))
        if coarse is not None:
            grid = {"height": height, "width": width, "channels": outputs}
            ops.append(_reading(_op("upsample_add", f"head.sums.{index}", grid), ops[-1].name, coarse))
    height, width = spec.grid(0)
    if spec.decoder_blocks:
        ops += _blocks(spec.decoder, 0, "head.blocks")
    sizes = {"height": height, "width": width, "channels": outputs, "classes": spec.num_classes, "scale": spec.patch}
    return [*ops, _op("segment", "head", sizes, norm=spec.norm)]


def _quantised(spec: ModelSpec, index: int) -> dict[str, str]:
    """The options of the binary layers of a stage."""
    bits, stage = {1: "binary", 32: "float"}, spec.stages[index]
    return {"norm": spec.norm, "weights": bits[stage.weight_bits], "activations": bits[stage.activation_bits]}


def _reading(op: Op, *names: str) -> Op:
    return dataclasses.replace(op, reads=names)


def stage_of(op: Op, spec: ModelSpec) -> int:
    """Return the stage that an op of `program(spec)` belongs to.

    A downsampling belongs to the one it leads into.

    Of a segmentation's decoder an op belongs to the stage of its grid.
    """
    if op.kind == "head":
        return len(spec.stages) - 1
    parts = op.name.split(".")
    if parts[0] == "head":
        return int(parts[2]) if len(parts) > 2 and parts[1] in ("laterals", "sums") else 0
    return {"stages": int(parts[1]), "downsamples": int(parts[1]) + 1}[parts[0]] if len(parts) > 1 else 0


def _op(kind: str, name: str, attributes: Dims, **options: str) -> Op:
    given = {key: value for key, value in options.items() if value != OPTIONS[key][0]}
    return Op(kind, name, attributes, given, OPS[kind].schema)
