"""The classifier of pixels: a linear layer of each token, upsampled.

f = norm(x, norm_scale, norm_shift); l[k] = bias[k] + sum over c of f[c]*weight[k, c], in order, of each token.
Bilinear upsampling by s = `scale`, pixels being areas: lerp(a, b, w) = a + (b - a)*w, one difference, one product, one
sum. Phase t, 0 <= t < s, of token i along an axis takes p = 2t + 1 - s: of tokens i - 1 and i if p < 0, else of i and
i + 1, with w = (p mod 2s) / 2s; a token outside the grid is the nearest one inside. Rows come first:
m[s*i + t, j] = lerp(l[i0, j], l[i0 + 1, j], w), then logits[k, y, s*j + t] = lerp(m[y, j0], m[y, j0 + 1], w).
The label of a pixel is the class of its largest logit, of equal ones the lowest number.
"""

from __future__ import annotations

import math

import numpy as np

from ...bits import LANES, Floats
from ...spec.model import MAX_LABELS, ModelSpec
from ..arithmetic import Tensors, float_linear, norm, untile
from ..op import Op
from ..op_cost import BIAS, NORM, OpCost
from ..schema import NORM_TENSORS, WHOLE_WORDS, OpSchema, floats

SCHEMA = OpSchema(
    ("height", "width", "channels", "classes", "scale"),
    ("norm",),
    NORM_TENSORS | floats("weight", "tiles(classes)", "channels", str(LANES)) | floats("bias", "classes"),
    rules=(WHOLE_WORDS, (f"classes <= {MAX_LABELS}", f"a segmentation has at most {MAX_LABELS} classes")),
    output=("height * scale", "width * scale", "classes"),
)


def reference(op: Op, t: Tensors, x: Floats) -> Floats:
    height, width, channels = x.shape
    features = norm(op, t, "norm", x).reshape(-1, channels)
    logits = float_linear(features, untile(t["weight"], len(t["bias"])), t["bias"])
    planes = logits.T.reshape(-1, height, width)
    return upsampled(upsampled(planes, op.attributes["scale"], 1), op.attributes["scale"], 2)


def upsampled(planes: Floats, scale: int, axis: int) -> Floats:
    """Bilinear upsampling of (classes, H, W) along one axis."""
    edge = planes.shape[axis]
    position = np.arange(edge * scale)
    p = 2 * (position % scale) + 1 - scale
    first = position // scale - (p < 0)
    weight = (p % (2 * scale)).astype(np.float32) / np.float32(2 * scale)
    a, b = (np.take(planes, np.clip(first + step, 0, edge - 1), axis) for step in (0, 1))
    shape = [1, 1, 1]
    shape[axis] = len(position)
    return a + (b - a) * weight.reshape(shape)


def cost(spec: ModelSpec, index: int, name: str) -> OpCost:
    """Return the cost of the op `name`.

    A classifier of each token; upsampling is left out as other additions are.
    """
    channels = spec.decoder_channels
    return OpCost(
        name=name,
        kind="segment",
        float_macs=math.prod(spec.grid(0)) * channels * spec.num_classes,
        float_parameters=(channels + BIAS) * spec.num_classes + NORM * channels,
    )
