"""The op program: what each op of a `.bhv` file computes, its attributes, options, tensors and limits.

A program is a straight line of coarse ops. The state between ops is x, a grid of tokens:
float32 (H, W, C), C innermost. The first op is `stem` (image -> x), the last is `head`
(x -> logits). Each file of `ops` gives the arithmetic of one op, in words and in
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

from ..errors import UserError
from ..spec.limits import MAX_OPS
from ..spec.model import MAX_GRID_FLOATS, MIXER_GROUPS, ModelSpec
from .op import Op
from .ops import OPS
from .schema import OPTIONS, Dims, require


def check_chain(ops: list[Op]) -> None:
    """Raises FormatError unless the ops run from a stem to a head, each taking what the last gave."""
    require(2 <= len(ops) <= MAX_OPS, f"a program has 2 to {MAX_OPS} ops, not {len(ops)}")
    names = [op.name for op in ops]
    require(len(set(names)) == len(names), "two ops have one name")
    for index, op in enumerate(ops):
        require((op.kind == "stem") == (index == 0), f"op {op.name}: a stem comes first and only there")
        require((op.kind == "head") == (index == len(ops) - 1), f"op {op.name}: a head comes last and only there")
        height, width, channels = op.output()
        require(
            height * width * channels <= MAX_GRID_FLOATS,
            f"op {op.name}: a grid of {height}x{width}x{channels} is over the limit",
        )
        if index:
            a, given = op.attributes, ops[index - 1].output()
            require(
                (a["height"], a["width"], a["channels"]) == given,
                f"op {op.name}: takes {a['height']}x{a['width']}x{a['channels']}, but {names[index - 1]} gives "
                + "x".join(map(str, given)),
            )


def program(spec: ModelSpec) -> list[Op]:
    """Return the ops of an architecture, in order; their tensors come from a trained model (`pack`).

    Raises UserError for a spec with registered names: it has no ops until packing lowers it.
    """
    if names := spec.registered:
        raise UserError(f"{spec.name} uses {', '.join(names)}, which no op computes: only its packed file has ops")
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
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
        bits = {1: "binary", 32: "float"}
        quantised = {"norm": spec.norm, "weights": bits[stage.weight_bits], "activations": bits[stage.activation_bits]}
        if index:
            sizes = {"height": height, "width": width, "channels": channels, "out_channels": stage.channels}
            name = f"downsamples.{index - 1}"
            if spec.downsample == "binary":
                ops.append(_op("downsample", name, sizes, **quantised))
            else:
                ops.append(_op("downsample_float", name, sizes, norm=spec.norm))
            height, width, channels = ops[-1].output()
        grid = {"height": height, "width": width, "channels": channels}
        attend = {**quantised, "quantizer": spec.attention if stage.activation_bits == 1 else "decomposition"}
        border = "zero" if spec.branches == "pool" else "cyclic"
        for block in range(stage.depth):
            name = f"stages.{index}.{block}.mixer"
            if stage.mixer == "conv":
                ops.append(_op("mixer", name, {**grid, "groups": MIXER_GROUPS}, **quantised))
            elif stage.mixer == "pooling":
                ops.append(_op("pooling", name, grid, norm=spec.norm))
            elif stage.mixer == "attention":
                window_h, window_w = spec.window(index)
                windows = {"heads": stage.heads, "window_h": window_h, "window_w": window_w}
                ops.append(_op("attention", name, {**grid, **windows}, **attend))
            else:
                keys = {"heads": stage.heads, "key_pool": stage.key_pool}
                ops.append(_op("pooled_attention", name, {**grid, **keys}, **attend))
            name = f"stages.{index}.{block}.mlp"
            ops.append(_op("mlp", name, {**grid, "hidden": stage.hidden}, **quantised, border=border))
    sizes = {"height": height, "width": width, "channels": channels, "classes": spec.num_classes}
    return [*ops, _op("head", "head", sizes, norm=spec.norm)]


def stage_of(op: Op, spec: ModelSpec) -> int:
    """Return the stage that an op of `program(spec)` belongs to; a downsampling belongs to the one it leads into."""
    if op.kind == "head":
        return len(spec.stages) - 1
    parts = op.name.split(".")
    return {"stages": int(parts[1]), "downsamples": int(parts[1]) + 1}[parts[0]] if len(parts) > 1 else 0


def _op(kind: str, name: str, attributes: Dims, **options: str) -> Op:
    given = {key: value for key, value in options.items() if value != OPTIONS[key][0]}
    return Op(kind, name, attributes, given, OPS[kind].schema)
