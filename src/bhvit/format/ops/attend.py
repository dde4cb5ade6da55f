"""Parts of both attentions: projections, attention of a head, output; no op.

A head of both attentions has d channels, queries q and keys and values k_j, v_j. Activations "binary":
the three are signs; m_j = popcount(q XOR k_j); e_j = exp_table[m_j - min m]. "float":
s_j = (0 + q_0*k_j0 + ... in order) * (1/sqrt(d)); e_j = e^(s_j - max s). P_j = e_j * (1/sum16(e)).
Activations "float": I_c = 0 + P_0*v_0c + P_1*v_1c + ... in order. "binary", by the option `quantizer`,
level_j = clamp(rint(P_j*level_scale_h + level_shift_h), 0, L), ties to even:
"decomposition" L = 3, "one_bit" L = 1: I_c = sum over j of level_j * v_jc, an integer;
"gsb" L = 1: I_c = (B + U*plane_scale[0]) + H*plane_scale[1], the integers B, U and H being the sums
of v_jc over all j weighted by level_j, by e_j >= GSB_UPPER, and by e_j >= GSB_HIGH.
context(I, z) = prelu(norm(I, ctx_scale, ctx_shift) + z, ctx_slope), with norm "layer" of
I*ctx_weight_scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...bits import Floats, pack_bits, popcount
from ...spec.model import ATTENTION_LEVELS, ModelSpec, StageSpec
from ..arithmetic import Tensors, decide, exp32, float_linear, linear, norm, observer, prelu, sum16
from ..op import Op
from ..op_cost import BIAS_BEFORE_SIGN, LAYER_SCALE, NORM, RPRELU
from ..schema import LAYER, floats, weights

GSB_UPPER, GSB_HIGH = 0.7, 0.9
"""Fractions of a row's largest probability at which the two upper masks of GSB begin, in float32."""
_1 = np.float32(1)

HEADS = ("channels % (32 * heads) == 0", "channels per head must be a multiple of 32")
ATTEND = (
    floats("exp_table", "channels // heads + 1", when="activations=binary")
    | floats("level_scale level_shift", "heads", when="activations=binary")
    | floats("plane_scale", "2", when="quantizer=gsb")
    | floats("ctx_scale ctx_shift ctx_slope", "channels")
    | floats("ctx_weight_scale", "channels", when=LAYER)
)
PROJECTIONS = (
    weights("qkv_weight", "3", "tiles(channels)", "channels")
    | floats("in_threshold qkv_scale qkv_shift qkv_slope qkv_threshold", "3", "channels")
    | floats("qkv_weight_scale", "3", "channels", when=LAYER)
    | weights("proj_weight", "tiles(channels)", "channels")
    | floats("mix_shift proj_threshold proj_scale proj_shift proj_slope out_scale out_shift", "channels")
    | floats("proj_weight_scale", "channels", when=LAYER)
)
_QUANTIZER = {"decomposition": (2, 0), "gsb": (0, 3), "one_bit": (0, 1)}
"""Learned numbers of each quantiser of the attention matrix: a head, and a layer."""


def project(op: Op, t: Tensors, tokens: Floats, p: int) -> tuple[Floats, npt.NDArray[Any]]:
    """Project tokens to z and one of q, k and v: signs or floats."""
    own = {name: tensor[p] for name, tensor in t.items() if name.startswith(("qkv_", "in_threshold"))}
    z = prelu(linear(op, own, tokens, "qkv_{}", threshold="in_threshold", what=f"in{p}") + tokens, own["qkv_slope"])
    threshold = own["qkv_threshold"]
    return z, z - threshold if op.option("activations") == "float" else decide(f"sign{p}", z, threshold)


def attend(op: Op, t: Tensors, q: npt.NDArray[Any], k: npt.NDArray[Any], v: npt.NDArray[Any]) -> Floats:
    """Queries (Q, C), keys and values (K, C) -> I of all heads, (Q, C)."""
    heads = op.attributes["heads"]
    products = np.empty(q.shape, np.float32)
    depth = q.shape[1] // heads
    for h in range(heads):
        part = slice(h * depth, (h + 1) * depth)
        if op.option("activations") == "float":
            products[:, part] = attend_floats(q[:, part], k[:, part], v[:, part])
            continue
        values = v[:, part].astype(np.int32) * 2 - 1
        e = attention_weights(q[:, part], k[:, part], t["exp_table"])
        highest = ATTENTION_LEVELS if op.option("quantizer") == "decomposition" else 1
        levels = attention_levels(e, t["level_scale"][h], t["level_shift"][h], highest) @ values
        products[:, part] = levels
        if op.option("quantizer") == "gsb":
            upper, high = ((e >= np.float32(least)).astype(np.int32) @ values for least in (GSB_UPPER, GSB_HIGH))
            products[:, part] = (
                levels.astype(np.float32) + upper.astype(np.float32) * t["plane_scale"][0]
            ) + high.astype(np.float32) * t["plane_scale"][1]
    return products


def context(op: Op, t: Tensors, products: Floats, zs: Floats) -> Floats:
    if op.option("norm") == "layer":
        products = products * t["ctx_weight_scale"]
    return prelu(norm(op, t, "ctx", products) + zs, t["ctx_slope"])


def output(op: Op, t: Tensors, m: Floats) -> Floats:
    return prelu(linear(op, t, m, "proj_{}") + m, t["proj_slope"]) * t["out_scale"] + t["out_shift"]


def attention_weights(q: npt.NDArray[np.bool_], k: npt.NDArray[np.bool_], exp_table: Floats) -> Floats:
    """Bits of queries (Q, d) and keys (K, d) of one head -> e^(score - best score), (Q, K)."""
    words_q, words_k = pack_bits(q), pack_bits(k)
    differing = popcount(words_q[:, None] ^ words_k[None]).sum(axis=-1)
    return exp_table[differing - differing.min(axis=1, keepdims=True)]


def attention_levels(e: Floats, scale: np.float32, shift: np.float32, highest: int) -> npt.NDArray[np.int32]:
    """Unnormalised probabilities (Q, K) of one head -> levels 0..highest."""
    values = (e * (_1 / sum16(e))[:, None]) * scale + shift
    levels = np.clip(np.rint(values), 0, highest).astype(np.int32)
    if note := observer.get():
        boundaries = np.clip(np.floor(values), 0, highest - 1) + np.float32(0.5)
        note("levels", levels, values - boundaries)
    return levels


def attend_floats(q: Floats, k: Floats, v: Floats) -> Floats:
    """Attention of one head in full precision: (Q, d), (K, d), (K, d) -> (Q, d)."""
    scores = float_linear(q, np.ascontiguousarray(k.T)) * (_1 / np.sqrt(np.float32(q.shape[1])))
    e = exp32(scores - scores.max(axis=1, keepdims=True))
    return float_linear(e * (_1 / sum16(e))[:, None], v)


def learned_floats(spec: ModelSpec, stage: StageSpec) -> int:
    """Count the learned floats that both attentions have.

    Those of the norm before, q, k and v, the matrix's quantiser, the norm and activation after, and the output.
    """
    projection = BIAS_BEFORE_SIGN + NORM + RPRELU + BIAS_BEFORE_SIGN
    output = BIAS_BEFORE_SIGN + NORM + RPRELU + LAYER_SCALE
    a_head, a_layer = _QUANTIZER[spec.attention] if stage.activation_bits == 1 else (0, 0)
    quantizer = a_head * stage.heads + a_layer
    return (NORM + 3 * projection + NORM + RPRELU + output) * stage.channels + quantizer
