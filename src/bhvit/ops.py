"""The op program: what each op of a `.bhv` file computes, its attributes, tensors and limits.

A program is a straight line of coarse ops. The state between ops is x, a grid of tokens:
float32 (H, W, C), C innermost. The first op is `stem` (image -> x), the last is `head`
(x -> logits). Each op below gives its arithmetic; `runtime/reference.py` is the same in NumPy and
`native/` the same in C++. All three are bit-identical, because the arithmetic is fixed here:

* every float operation is IEEE float32, rounded by itself (no fused multiply-add), in the order
  written; `a*s + t` is one product and one sum;
* sign(v) is +1 where v >= 0; bits are as in `bits`; acc is an exact integer, converted to float32;
* sum16(v) over a length: 16 partial sums, lane l adding elements l, l+16, l+32, ... in order, then
  lanes l and l+8 are added, then l and l+4, l+2, l+1. Absent elements are left out (they count 0);
* prelu(v, s) = v where v > 0, else v*s.

stem        y = b + sum over k of in[k]*weight[k], added in the order k = (channel, row, column);
            x = act(y) + position. "gelu": y * (0.5 * (1 + erf(y * 0.70710678))), erf as in `erf32`
            of the reference.
mixer       a = sign(x*norm_scale + norm_shift); for each dilation i: acc_i = 3x3 binary convolution of
            a in `groups` groups, taps outside the grid adding nothing, inputs of a weight ordered
            (row, column, channel of the group); z_i = prelu(acc_i*scale_i + shift_i, slope_i);
            x += ((z_0 + z_1) + z_2)*out_scale + out_shift.
mlp         n = x*norm_scale + norm_shift; a = bits n >= threshold1. The F hidden channels are stored as
            (i, c), i < r = F/C, c < C; hidden (i, c) is channel r*c + i of the published order.
            z = prelu((acc1*scale1 + shift1) + n[(r*c + i) mod C], slope1); b = bits z >= threshold2;
            mean_c = (z_(0,c) + ... + z_(r-1,c)) * (1/r); y = prelu((acc2*scale2 + shift2) + mean, slope2);
            x = (x + (y*out_scale + out_shift)) + cross, cross = sum over the 9 taps of n shifted cyclically
            times taps[k], added in the order of TAPS.
attention   n = x*norm_scale + norm_shift. Windows of (window_h, window_w) tokens, row-major; nW of them.
            Global token g (one per window, row-major): over the window_h x window_w patch that starts
            (window-1)//2 before the window's corner, clipped to the grid: avg = sum in row-major order
            / (window_h*window_w), max = maximum; g = max*pool_max + avg*pool_avg.
            t = ((v - mean) * (1/sqrt(var + eps)))*token_scale + token_shift for each token v of n and
            each g, mean = sum16(v)/C, var = sum16((v-mean)^2)/C.
            For p in q, k, v: a = bits t >= in_threshold_p; z_p = prelu((acc*qkv_scale_p + qkv_shift_p) + t,
            qkv_slope_p); bits z_p >= qkv_threshold_p. zs = (z_q + z_k) + z_v.
            For each window and head of d channels, keys are the window's tokens (row-major), then all g:
            m_j = popcount(q XOR k_j); e_j = exp_table[m_j - min m]; P_j = e_j * (1/sum16(e));
            level_j = clamp(rint(P_j*level_scale_h + level_shift_h), 0, 3), ties to even;
            I_c = sum over j of level_j * v_jc (an integer).
            c = prelu((I*ctx_scale + ctx_shift) + zs, ctx_slope), for queries of the window and for each g.
            cg = (sum over windows, in order, of c of token g) / nW.
            m = (c*mix_local + cg[g of the token's window]*mix_global) + mix_shift; a = bits m >= proj_threshold;
            x += prelu((acc*proj_scale + proj_shift) + m, proj_slope)*out_scale + out_shift.
downsample  n = x*norm_scale + norm_shift; a = bits n >= threshold; acc = 2x2 stride-2 binary convolution,
            inputs of a weight ordered (row, column, channel); pool = ((n00 + n01) + (n10 + n11))*0.25;
            x = (prelu((acc*scale + shift) + pool[o mod C], slope) + out_shift) + position.
downsample_float   x = (bias + sum over k of x[k]*weight[k], in the order k = (row, column, channel)) + position.
head        f = (sum over tokens of x, in order / (H*W))*norm_scale + norm_shift;
            logits = bias + sum over c of f[c]*weight[c], in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from .bits import words_for
from .errors import FormatError, UserError
from .spec import LANES, MAX_GRID_FLOATS, MIXER_GROUPS, ModelSpec

TAPS = ((0, 0), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -1), (0, 1), (0, -2), (0, 2))
"""(rows, columns) of the 9-tap cross: tap k reads the token at that offset, cyclically."""

Kind = Literal["bits", "float"]
Dims = dict[str, int]

# Largest value of each attribute. They bound every size and index of the engine: the widest
# accumulator holds 9 * 8192 < 2^31, the largest grid 2048 * 2048 tokens.
LIMITS: Mapping[str, int] = {
    "height": 2048, "width": 2048, "in_chans": 64, "patch": 64, "channels": 8192, "out_channels": 8192,
    "hidden": 65536, "groups": 64, "heads": 256, "window_h": 64, "window_w": 64, "classes": 1 << 20,
}  # fmt: skip
MAX_OPS = 1024


@dataclasses.dataclass(frozen=True)
class OpSchema:
    """Attributes of an op and the shapes of its tensors, in names that `derive` gives values."""

    attributes: tuple[str, ...]
    tensors: Mapping[str, tuple[Kind, tuple[str, ...]]]
    derive: Callable[[Dims], Dims]
    """Attributes -> sizes used by the tensors' shapes. Raises FormatError on impossible attributes."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FormatError(message)


def _tiles(channels: int) -> int:
    return -(-channels // LANES)


def _stem(a: Dims) -> Dims:
    _require(a["channels"] % 32 == 0, "channels must be a multiple of 32")
    return {"C": a["channels"], "Ct": _tiles(a["channels"]), "N": a["height"] * a["width"],
            "K": a["in_chans"] * a["patch"] ** 2}  # fmt: skip


def _mixer(a: Dims) -> Dims:
    _require(a["channels"] % (LANES * a["groups"]) == 0, f"channels must be a multiple of {LANES} per group")
    return {"C": a["channels"], "Ct": _tiles(a["channels"]), "D": 3,
            "Kw": words_for(9 * a["channels"] // a["groups"])}  # fmt: skip


def _mlp(a: Dims) -> Dims:
    channels, hidden = a["channels"], a["hidden"]
    _require(channels % 32 == 0, "channels must be a multiple of 32")
    _require(hidden % channels == 0 and channels % (hidden // channels) == 0,
             "hidden must be r*channels with r a divisor of channels")  # fmt: skip
    return {"C": channels, "F": hidden, "Ct": _tiles(channels), "Ft": _tiles(hidden),
            "Cw": words_for(channels), "Fw": words_for(hidden), "T": len(TAPS)}  # fmt: skip


def _attention(a: Dims) -> Dims:
    channels, heads = a["channels"], a["heads"]
    _require(channels % (32 * heads) == 0, "channels per head must be a multiple of 32")
    _require(a["height"] % a["window_h"] == 0 and a["width"] % a["window_w"] == 0,
             "windows must divide the grid")  # fmt: skip
    windows = a["height"] // a["window_h"] * (a["width"] // a["window_w"])
    _require(a["window_h"] * a["window_w"] + windows <= 4096, "at most 4096 keys a window")
    return {"C": channels, "Ct": _tiles(channels), "Cw": words_for(channels), "P": 3, "E": channels // heads + 1,
            "heads": heads}  # fmt: skip


def _downsample(a: Dims) -> Dims:
    _require(a["channels"] % 32 == 0 and a["out_channels"] % 32 == 0, "channels must be multiples of 32")
    _require(a["out_channels"] % a["channels"] == 0, "out_channels must be a multiple of channels")
    _require(a["height"] % 2 == 0 and a["width"] % 2 == 0, "height and width must be even")
    return {"C": a["channels"], "O": a["out_channels"], "Ot": _tiles(a["out_channels"]), "K": 4 * a["channels"],
            "Kw": words_for(4 * a["channels"]), "N": a["height"] * a["width"] // 4}  # fmt: skip


def _head(a: Dims) -> Dims:
    return {"C": a["channels"], "K": a["classes"], "Kt": _tiles(a["classes"])}


def _floats(names: str, *shape: str) -> dict[str, tuple[Kind, tuple[str, ...]]]:
    return dict.fromkeys(names.split(), ("float", shape))


def _bits(name: str, *shape: str) -> dict[str, tuple[Kind, tuple[str, ...]]]:
    return {name: ("bits", (*shape, str(LANES)))}


OPS: Mapping[str, OpSchema] = {
    # height and width of the stem are tokens: the image is (in_chans, height*patch, width*patch).
    "stem": OpSchema(
        ("height", "width", "in_chans", "patch", "channels"),
        _floats("weight", "Ct", "K", str(LANES)) | _floats("bias", "C") | _floats("position", "N", "C"),
        _stem,
    ),
    "mixer": OpSchema(
        ("height", "width", "channels", "groups"),
        _floats("norm_scale norm_shift out_scale out_shift", "C")
        | _bits("weight", "D", "Ct", "Kw")
        | _floats("scale shift slope", "D", "C"),
        _mixer,
    ),
    "mlp": OpSchema(
        ("height", "width", "channels", "hidden"),
        _floats("norm_scale norm_shift threshold1 scale2 shift2 slope2 out_scale out_shift", "C")
        | _bits("weight1", "Ft", "Cw")
        | _floats("scale1 shift1 slope1 threshold2", "F")
        | _bits("weight2", "Ct", "Fw")
        | _floats("taps", "T", "C"),
        _mlp,
    ),
    "attention": OpSchema(
        ("height", "width", "channels", "heads", "window_h", "window_w"),
        _floats("norm_scale norm_shift pool_max pool_avg token_scale token_shift", "C")
        | _floats("in_threshold qkv_scale qkv_shift qkv_slope qkv_threshold", "P", "C")
        | _bits("qkv_weight", "P", "Ct", "Cw")
        | _floats("exp_table", "E")
        | _floats("level_scale level_shift", "heads")
        | _floats("ctx_scale ctx_shift ctx_slope mix_local mix_global mix_shift", "C")
        | _bits("proj_weight", "Ct", "Cw")
        | _floats("proj_threshold proj_scale proj_shift proj_slope out_scale out_shift", "C"),
        _attention,
    ),
    "downsample": OpSchema(
        ("height", "width", "channels", "out_channels"),
        _floats("norm_scale norm_shift threshold", "C")
        | _bits("weight", "Ot", "Kw")
        | _floats("scale shift slope out_shift", "O")
        | _floats("position", "N", "O"),
        _downsample,
    ),
    "downsample_float": OpSchema(
        ("height", "width", "channels", "out_channels"),
        _floats("weight", "Ot", "K", str(LANES)) | _floats("bias", "O") | _floats("position", "N", "O"),
        _downsample,
    ),
    "head": OpSchema(
        ("height", "width", "channels", "classes"),
        _floats("norm_scale norm_shift", "C") | _floats("weight", "Kt", "C", str(LANES)) | _floats("bias", "K"),
        _head,
    ),
}

TOKEN_EPS = 1e-5
"""eps of the attention's token LayerNorm, added in float32."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One op: its kind, the name that prefixes its tensors, and its attributes."""

    kind: str
    name: str
    attributes: Dims

    def shapes(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Kind and shape of every tensor, by its name without the op's prefix."""
        schema = OPS[self.kind]
        sizes = schema.derive(self.attributes)
        return {
            tensor: (kind, tuple(sizes.get(size) or int(size) for size in shape))
            for tensor, (kind, shape) in schema.tensors.items()
        }

    def to_json(self) -> dict[str, Any]:
        return {"op": self.kind, "name": self.name, **self.attributes}

    @classmethod
    def from_json(cls, fields: Any) -> Op:
        """An op from `to_json`. Raises FormatError naming the op and what is wrong with it."""
        _require(isinstance(fields, dict) and isinstance(fields.get("name"), str), "an op is not an object with a name")
        rest = dict(fields)
        kind, name = rest.pop("op", None), rest.pop("name")
        known = isinstance(kind, str) and kind in OPS
        _require(known, f"op {name}: unknown kind {kind!r}; a newer bhvit may know it")
        takes = OPS[kind].attributes
        _require(
            set(rest) == set(takes), f"op {name}: {kind} takes {', '.join(takes)}, not {', '.join(map(str, rest))}"
        )
        for key, value in rest.items():
            _require(type(value) is int and 1 <= value <= LIMITS[key],
                     f"op {name}: {key} must be 1 to {LIMITS[key]}, not {value!r}")  # fmt: skip
        try:
            OPS[kind].derive(rest)
        except FormatError as error:
            raise FormatError(f"op {name}: {error}") from None
        return cls(kind, name, rest)

    def output(self) -> tuple[int, int, int]:
        """(H, W, C) of x after this op; (1, 1, classes) after the head."""
        a = self.attributes
        if self.kind == "head":
            return 1, 1, a["classes"]
        if self.kind.startswith("downsample"):
            return a["height"] // 2, a["width"] // 2, a["out_channels"]
        return a["height"], a["width"], a["channels"]


def check_chain(ops: list[Op]) -> None:
    """Raises FormatError unless the ops run from a stem to a head, each taking what the last gave."""
    _require(2 <= len(ops) <= MAX_OPS, f"a program has 2 to {MAX_OPS} ops, not {len(ops)}")
    names = [op.name for op in ops]
    _require(len(set(names)) == len(names), "two ops have one name")
    for index, op in enumerate(ops):
        _require((op.kind == "stem") == (index == 0), f"op {op.name}: a stem comes first and only there")
        _require((op.kind == "head") == (index == len(ops) - 1), f"op {op.name}: a head comes last and only there")
        height, width, channels = op.output()
        _require(
            height * width * channels <= MAX_GRID_FLOATS,
            f"op {op.name}: a grid of {height}x{width}x{channels} is over the limit",
        )
        if index:
            a = op.attributes
            _require((a["height"], a["width"], a["channels"]) == ops[index - 1].output(),
                     f"op {op.name}: takes {a['height']}x{a['width']}x{a['channels']}, but {names[index - 1]} gives "
                     + "x".join(map(str, ops[index - 1].output())))  # fmt: skip


def _require_packable(spec: ModelSpec) -> None:
    wanted = {
        "layer normalisation (norm=layer)": spec.norm != "batch",
        f"the attention quantiser {spec.attention}": spec.attention != "decomposition",
        "pooled attention (BinaryViT)": any(stage.mixer == "pooled_attention" for stage in spec.stages),
        "the pooling mixer": any(stage.mixer == "pooling" for stage in spec.stages),
        "pooling branches": spec.branches == "pool" and bool(spec.shifts),
        "a stem without GELU": spec.stem_activation != "gelu",
        "full-precision stages": any((s.weight_bits, s.activation_bits) != (1, 1) for s in spec.stages),
    }
    missing = [what for what, needed in wanted.items() if needed]
    if missing:
        raise UserError(f"{spec.name} cannot be packed by this version, which has no ops for {', '.join(missing)}")


def program(spec: ModelSpec) -> list[Op]:
    """The ops of an architecture, in order; their tensors come from a trained model (`pack`).

    Raises UserError for what no op computes yet.
    """
    _require_packable(spec)
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    ops = [Op("stem", "stem", {"height": height, "width": width, "in_chans": spec.in_chans,
                               "patch": spec.patch, "channels": channels})]  # fmt: skip
    for index, stage in enumerate(spec.stages):
        if index:
            kind = "downsample" if spec.downsample == "binary" else "downsample_float"
            ops.append(Op(kind, f"downsamples.{index - 1}", {"height": height, "width": width, "channels": channels,
                                                            "out_channels": stage.channels}))  # fmt: skip
            height, width, channels = ops[-1].output()
        grid = {"height": height, "width": width, "channels": channels}
        for block in range(stage.depth):
            name = f"stages.{index}.{block}"
            if stage.mixer == "conv":
                ops.append(Op("mixer", f"{name}.mixer", {**grid, "groups": MIXER_GROUPS}))
            else:
                window_h, window_w = spec.window(index)
                ops.append(Op("attention", f"{name}.mixer", {**grid, "heads": stage.heads,
                                                             "window_h": window_h, "window_w": window_w}))  # fmt: skip
            ops.append(Op("mlp", f"{name}.mlp", {**grid, "hidden": stage.hidden}))
    ops.append(
        Op("head", "head", {"height": height, "width": width, "channels": channels, "classes": spec.num_classes})
    )
    return ops
