"""Window attention with global tokens.

n = norm(x, norm_scale, norm_shift). Windows of (window_h, window_w) tokens, row-major; nW of them.
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
"""

from __future__ import annotations

import math

import numpy as np

from ...bits import Floats
from ...spec.limits import MAX_KEYS
from ...spec.model import ModelSpec
from ..arithmetic import Tensors, in_order, layer_norm, norm
from ..op import Op
from ..op_cost import MIX, NORM, OpCost, quantised
from ..schema import NORM_TENSORS, QUANTISED, OpSchema, floats
from .attend import ATTEND, HEADS, PROJECTIONS, attend, context, learned_floats, output, project

SCHEMA = OpSchema(
    ("height", "width", "channels", "heads", "window_h", "window_w"),
    (*QUANTISED, "quantizer"),
    NORM_TENSORS
    | floats("pool_max pool_avg token_scale token_shift", "channels")
    | PROJECTIONS
    | ATTEND
    | floats("mix_local mix_global", "channels"),
    rules=(
        HEADS,
        ("height % window_h == 0 and width % window_w == 0", "windows must divide the grid"),
        (
            f"window_h * window_w + height // window_h * (width // window_w) <= {MAX_KEYS}",
            f"at most {MAX_KEYS} keys a window",
        ),
    ),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    window_h, window_w = op.attributes["window_h"], op.attributes["window_w"]
    length, windows = window_h * window_w, height * width // (window_h * window_w)
    n = norm(op, t, "norm", x)

    # Rows: the tokens of each window in turn, then the global tokens.
    def split(grid: Floats) -> Floats:
        blocks = grid.reshape(height // window_h, window_h, width // window_w, window_w, channels)
        return blocks.transpose(0, 2, 1, 3, 4).reshape(windows * length, channels)

    tokens = np.concatenate([split(n), global_tokens(n, window_h, window_w, t)])
    tokens = layer_norm(tokens, t["token_scale"], t["token_shift"])
    (z_q, q), (z_k, k), (z_v, v) = (project(op, t, tokens, p) for p in range(3))
    zs = (z_q + z_k) + z_v

    everywhere = np.arange(windows * length, windows * length + windows)
    attended = np.empty((windows, length + windows, channels), np.float32)
    for w in range(windows):
        rows = np.concatenate([np.arange(w * length, (w + 1) * length), everywhere])
        attended[w] = context(op, t, attend(op, t, q[rows], k[rows], v[rows]), zs[rows])

    pooled = in_order(attended[:, length:]) / np.float32(windows)
    spread = np.repeat(pooled[:, None], length, axis=1)
    m = ((attended[:, :length] * t["mix_local"] + spread * t["mix_global"]) + t["mix_shift"]).reshape(-1, channels)
    y = output(op, t, m).reshape(height // window_h, width // window_w, window_h, window_w, channels)
    return x + y.transpose(0, 2, 1, 3, 4).reshape(x.shape)


def global_tokens(n: Floats, window_h: int, window_w: int, t: Tensors) -> Floats:
    """One token per window: pooled over the patch that starts (window-1)//2 before the window's corner."""
    height, width, channels = n.shape
    tokens = []
    for top in range(0, height, window_h):
        for left in range(0, width, window_w):
            first, first_column = top - (window_h - 1) // 2, left - (window_w - 1) // 2
            patch = n[max(0, first) : first + window_h, max(0, first_column) : first_column + window_w]
            flat = patch.reshape(-1, channels)
            average = in_order(flat) / np.float32(window_h * window_w)
            tokens.append(flat.max(axis=0) * t["pool_max"] + average * t["pool_avg"])
    return np.stack(tokens)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name` in stage `index`."""
    stage = spec.stages[index]
    square, tokens, length = stage.channels**2, math.prod(spec.grid(index)), math.prod(spec.window(index))
    windows = tokens // length
    keys = length + windows
    products = 2 * windows * keys * keys * stage.channels  # q k^T and P v
    return quantised(
        stage,
        name,
        "attention",
        weights=4 * square,
        # Also: the mixes of the two poolings and of local and global, the layer norm of the tokens.
        floats=learned_floats(spec, stage) + (MIX + NORM + MIX) * stage.channels,
        macs=3 * windows * keys * square + products + tokens * square,
        executed=3 * (tokens + windows) * square + products + tokens * square,
    )
