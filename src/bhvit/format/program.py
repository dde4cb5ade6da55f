"""The op program: what each op of a `.bhv` file computes, its attributes, options, tensors and limits.

A program is a straight line of coarse ops. The state between ops is x, a grid of tokens:
float32 (H, W, C), C innermost. The first op is `stem` (image -> x), the last is `head`
(x -> logits). Each op below gives its arithmetic; `runtime/reference.py` is the same in NumPy and
`native/` the same in C++. All three are bit-identical, because the arithmetic is fixed here:

* every float operation is IEEE float32, rounded by itself (no fused multiply-add), in the order
  written; `a*s + t` is one product and one sum;
* sign(v) is +1 where v >= 0; bits are as in `bits`;
* sum16(v) over a length: 16 partial sums, lane l adding elements l, l+16, l+32, ... in order, then
  lanes l and l+8 are added, then l and l+4, l+2, l+1. Absent elements are left out (they count 0);
* prelu(v, s) = v where v > 0, else v*s; e^v and erf(v) are `exp32` and `erf32` of the reference;
* norm(v, s, t) of a token's channels, by the option `norm`: "batch" v*s + t; "layer"
  ((v - mean)*(1/sqrt(var + eps)))*s + t, mean = sum16(v)/C, var = sum16((v-mean)^2)/C, eps = NORM_EPS;
* product(v, threshold, weight) of K inputs, by the options `activations` and `weights`. Both "binary": the
  signs v >= threshold times the weights' signs, an exact integer, converted to float32. Otherwise
  0 + a_0*w_0 + a_1*w_1 + ... in order, a = +-1 as before, or v - threshold if activations are
  "float"; w = +-1, or the stored numbers if weights are "float". Taps outside the grid are left out;
* linear_i(v) = norm(product(v, threshold_i, weight_i), scale_i, shift_i); with norm "layer" the product is
  first multiplied by weight_scale_i.

stem        y = b + sum over k of in[k]*weight[k], added in the order k = (channel, row, column); with norm
            "layer" y = norm(y, norm_scale, norm_shift). x = act(y) + position. The activation "gelu":
            y * (0.5 * (1 + erf(y * 0.70710678))); "none": y.
mixer       n = norm(x, norm_scale, norm_shift). For each dilation i: a 3x3 convolution in `groups` groups, inputs
            of a weight ordered (row, column, channel of the group); z_i = prelu(product_i(n, 0)*scale_i +
            shift_i, slope_i); s = (z_0 + z_1) + z_2, with norm "layer" s = s + sum_shift;
            x += norm(s, out_scale, out_shift).
pooling     n as above; s = (sum of the 3x3 tokens around, those inside the grid in row-major order) / 9;
            x += norm(s, out_scale, out_shift).
mlp         n as above. The F hidden channels are stored as (i, c), i < r = F/C, c < C; hidden (i, c) is
            channel r*c + i of the published order.
            z = prelu(linear1(n) + n[(r*c + i) mod C], slope1);
            mean_c = (z_(0,c) + ... + z_(r-1,c)) * (1/r); y = prelu(linear2(z) + mean, slope2);
            x = (x + (y*out_scale + out_shift)) + cross, cross = sum over the 9 taps of n shifted
            times taps[k], added in the order of TAPS; beyond the grid n is cyclic or 0, by the option `border`.
attend      of both attentions, a head of d channels, queries q and keys and values k_j, v_j. Activations "binary":
            the three are signs; m_j = popcount(q XOR k_j); e_j = exp_table[m_j - min m]. "float":
            s_j = (0 + q_0*k_j0 + ... in order) * (1/sqrt(d)); e_j = e^(s_j - max s). P_j = e_j * (1/sum16(e)).
            Activations "float": I_c = 0 + P_0*v_0c + P_1*v_1c + ... in order. "binary", by the option `quantizer`,
            level_j = clamp(rint(P_j*level_scale_h + level_shift_h), 0, L), ties to even:
            "decomposition" L = 3, "one_bit" L = 1: I_c = sum over j of level_j * v_jc, an integer;
            "gsb" L = 1: I_c = (B + U*plane_scale[0]) + H*plane_scale[1], the integers B, U and H being the sums
            of v_jc over all j weighted by level_j, by e_j >= GSB_UPPER, and by e_j >= GSB_HIGH.
            context(I, z) = prelu(norm(I, ctx_scale, ctx_shift) + z, ctx_slope), with norm "layer" of
            I*ctx_weight_scale.
attention   n as above. Windows of (window_h, window_w) tokens, row-major; nW of them.
            Global token g (one per window, row-major): over the window_h x window_w patch that starts
            (window-1)//2 before the window's corner, clipped to the grid: avg = sum in row-major order
            / (window_h*window_w), max = maximum; g = max*pool_max + avg*pool_avg.
            t = layer norm of each token of n and each g, with token_scale and token_shift.
            For p in q, k, v: z_p = prelu(qkv linear_p(t) + t, qkv_slope_p), and into attend goes
            z_p >= qkv_threshold_p, or z_p - qkv_threshold_p if activations are "float". zs = (z_q + z_k) + z_v.
            Each window attends by itself: queries and keys are its tokens (row-major), then all g.
            c = context(I, zs), for queries of the window and for each g.
            cg = (sum over windows, in order, of c of token g) / nW.
            m = (c*mix_local + cg[g of the token's window]*mix_global) + mix_shift;
            x += prelu(proj linear(m) + m, proj_slope)*out_scale + out_shift.
pooled_attention   n as above. With key_pool > 1: p = (sum of each key_pool x key_pool patch of n, row-major) /
            key_pool^2; u = prelu(reduce linear(p) + p, reduce_slope) + reduce_shift. Otherwise u = n.
            z_q from n, z_k and z_v from u, as above; zs = (z_q + z_k[patch]) + z_v[patch]. All tokens attend to
            all keys (row-major); m = context(I, zs) + mix_shift; x as above.
downsample  n as above; y = linear(2x2 stride-2 patches of n), inputs of a weight ordered (row, column, channel),
            threshold by channel;
            pool = ((n00 + n01) + (n10 + n11))*0.25;
            x = (prelu(y + pool[o mod C], slope) + out_shift) + position.
downsample_float   with norm "batch": x = (bias + sum over k of x[k]*weight[k], in the order k = (row, column,
            channel)) + position. With norm "layer": n as above; x = norm(0 + sum over k of n[k]*weight[k], scale,
            shift) + position.
head        norm "batch": f = norm(sum over tokens of x, in order / (H*W), norm_scale, norm_shift). "layer":
            f = sum over tokens of norm(x, norm_scale, norm_shift), in order / (H*W).
            logits = bias + sum over c of f[c]*weight[c], in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..bits import LANES, words_for
from ..errors import FormatError
from ..spec.limits import LIMITS, MAX_OPS
from ..spec.model import MAX_GRID_FLOATS, MIXER_GROUPS, ModelSpec
from .expressions import evaluate
from .schema import OPS, OPTIONS, Dims, Kind, TensorRule, require

TAPS = ((0, 0), (-1, 0), (1, 0), (-2, 0), (2, 0), (0, -1), (0, 1), (0, -2), (0, 2))
"""(rows, columns) of the 9-tap cross: tap k reads the token at that offset."""
NORM_EPS = 1e-5
"""eps of layer normalisation, added in float32."""
GSB_UPPER, GSB_HIGH = 0.7, 0.9
"""Fractions of a row's largest probability at which the two upper masks of GSB begin, in float32."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One op: its kind, the name that prefixes its tensors, its attributes and its options."""

    kind: str
    name: str
    attributes: Dims
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Those that differ from their default."""

    def option(self, name: str) -> str:
        """The value of an option."""
        return self.options.get(name, OPTIONS[name][0])

    def has(self, rule: TensorRule) -> bool:
        """Whether this op has the tensor of a rule."""
        for condition in rule.when.split():
            attribute, above, _ = condition.partition(">")
            option, _, value = condition.partition("=")
            if not (self.attributes[attribute] > 1 if above else self.option(option) == value):
                return False
        return True

    def shapes(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Kind and shape of every tensor, by its name without the op's prefix."""
        schema = OPS[self.kind]
        shapes: dict[str, tuple[Kind, tuple[int, ...]]] = {}
        for name, rule in schema.tensors.items():
            if not self.has(rule):
                continue
            shape = tuple(evaluate(size, self.attributes) for size in rule.shape)
            if not rule.weights:
                shapes[name] = ("float", shape)
            elif self.option("weights") == "float":
                shapes[name] = ("float", (*shape, LANES))
            else:
                shapes[name] = ("bits", (*shape[:-1], words_for(shape[-1]), LANES))
        return shapes

    def to_json(self) -> dict[str, Any]:
        return {"op": self.kind, "name": self.name, **self.attributes, **self.options}

    @classmethod
    def from_json(cls, fields: Any) -> Op:
        """An op from `to_json`. Raises FormatError naming the op and what is wrong with it."""
        require(isinstance(fields, dict) and isinstance(fields.get("name"), str), "an op is not an object with a name")
        rest = dict(fields)
        kind, name = rest.pop("op", None), rest.pop("name")
        known = isinstance(kind, str) and kind in OPS
        require(known, f"op {name}: unknown kind {kind!r}; a newer bhvit may know it")
        takes = OPS[kind].attributes
        options = {key: rest.pop(key) for key in OPS[kind].options if key in rest}
        for key, value in options.items():
            require(value in OPTIONS[key][1:], f"op {name}: {key} {value!r} is not known; a newer bhvit may know it")
        require(set(rest) == set(takes), f"op {name}: {kind} takes {', '.join(takes)}, not {', '.join(map(str, rest))}")
        for key, value in rest.items():
            require(type(value) is int and 1 <= value <= LIMITS[key],
                     f"op {name}: {key} must be 1 to {LIMITS[key]}, not {value!r}")  # fmt: skip
        try:
            OPS[kind].check(rest)
        except FormatError as error:
            raise FormatError(f"op {name}: {error}") from None
        return cls(kind, name, rest, options)

    def output(self) -> tuple[int, int, int]:
        """(H, W, C) of x after this op; (1, 1, classes) after the head."""
        height, width, channels = (evaluate(size, self.attributes) for size in OPS[self.kind].output)
        return height, width, channels


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
            a = op.attributes
            require((a["height"], a["width"], a["channels"]) == ops[index - 1].output(),
                     f"op {op.name}: takes {a['height']}x{a['width']}x{a['channels']}, but {names[index - 1]} gives "
                     + "x".join(map(str, ops[index - 1].output())))  # fmt: skip


def program(spec: ModelSpec) -> list[Op]:
    """The ops of an architecture, in order; their tensors come from a trained model (`pack`)."""
    height, width = spec.grid(0)
    channels = spec.stages[0].channels
    ops = [_op("stem", "stem", {"height": height, "width": width, "in_chans": spec.in_chans, "patch": spec.patch,
                                "channels": channels}, norm=spec.norm, activation=spec.stem_activation)]  # fmt: skip
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


def _op(kind: str, name: str, attributes: Dims, **options: str) -> Op:
    return Op(kind, name, attributes, {key: value for key, value in options.items() if value != OPTIONS[key][0]})
