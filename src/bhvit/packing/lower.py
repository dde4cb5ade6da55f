"""Lowering: each module of a trained network becomes the tensors of one op (`ops` says what they mean)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from ..bits import tile_floats, tile_weights
from ..models.attention_quantizers import DecomposedAttention
from ..models.layers import QuantConv2d, RPReLU, ShiftBranches
from ..models.mixers import ConvMixer, Projection, WindowAttention
from ..models.network import BHViT, BinaryDownsample, Block, FloatDownsample, Head, Stem
from ..ops import TAPS
from ..spec import ATTENTION_LEVELS
from .fold import F64, Affine, array, binary_weight, layer_scale, norm

Tensors = dict[str, npt.NDArray[Any]]


def lower(model: BHViT) -> dict[str, Tensors]:
    """Tensors of each op of `ops.program(model.spec)`, by op name; numbers in float64, bits as words."""
    return dict(_lower(model))


def _lower(model: BHViT) -> Iterator[tuple[str, Tensors]]:
    yield "stem", _stem(model.stem)
    for index, stage in enumerate(model.stages):
        if index:
            module = model.downsamples[index - 1]
            assert isinstance(module, BinaryDownsample | FloatDownsample)
            lowered = _downsample(module) if isinstance(module, BinaryDownsample) else _downsample_float(module)
            yield f"downsamples.{index - 1}", lowered
        for number, block in enumerate(stage.children()):
            assert isinstance(block, Block)
            name = f"stages.{index}.{number}"
            mixer = block.mixer
            if isinstance(mixer, ConvMixer):
                yield f"{name}.mixer", _mixer(block, mixer)
            elif isinstance(mixer, WindowAttention):
                yield f"{name}.mixer", _attention(block, mixer)
            yield f"{name}.mlp", _mlp(block)
    yield "head", _head(model.head)


def _stem(stem: Stem) -> Tensors:
    bias = array(stem.conv.bias) if stem.conv.bias is not None else 0.0
    folded = norm(stem.norm)
    weight = array(stem.conv.weight).reshape(len(folded.scale), -1)
    return {
        "weight": tile_floats(weight * folded.scale[:, None]),
        "bias": bias * folded.scale + folded.shift,
        "position": _rows(array(stem.position)),
    }


def _mixer(block: Block, mixer: ConvMixer) -> Tensors:
    before = norm(block.mixer_norm).plus(array(mixer.move.bias))
    tensors: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("weight", "scale", "shift", "slope")}
    constant: Any = 0.0
    for conv, activation in zip(mixer.convs, mixer.activations, strict=True):
        assert isinstance(conv, QuantConv2d)
        assert isinstance(activation, RPReLU)
        weight, scale = binary_weight(conv)
        tensors["weight"].append(tile_weights(weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)))
        tensors["scale"].append(scale)
        tensors["shift"].append(array(conv.get_parameter("bias")) - array(activation.shift_in))
        tensors["slope"].append(array(activation.slope))
        constant = constant + array(activation.shift_out)
    after = Affine(np.ones_like(constant), constant).then(norm(mixer.norm))
    return {
        "norm_scale": before.scale,
        "norm_shift": before.shift,
        **{name: np.stack(parts) for name, parts in tensors.items()},
        "out_scale": after.scale,
        "out_shift": after.shift,
    }


def _mlp(block: Block) -> Tensors:
    mlp = block.mlp
    before = norm(block.mlp_norm)
    r, channels = mlp.expansion, len(before.scale)
    # Stored hidden (i, c) is published hidden r*c + i (see `ops`).
    order = np.arange(r * channels).reshape(channels, r).T.reshape(-1)
    weight1, scale1 = binary_weight(mlp.linear1)
    weight2, scale2 = binary_weight(mlp.linear2)
    first = Affine(scale1, np.zeros_like(scale1)).then(norm(mlp.norm1)).plus(-array(mlp.activation1.shift_in))
    second = Affine(scale2, np.zeros_like(scale2)).then(norm(mlp.norm2)).plus(-array(mlp.activation2.shift_in))
    hidden_shift = array(mlp.activation1.shift_out)
    # u = z + hidden_shift: its mean over each run of r channels joins the second layer's constant.
    second = second.plus(hidden_shift.reshape(channels, r).mean(axis=1))
    scale = layer_scale(mlp.scale)
    taps, tap_shift = _taps(block.shift, channels)
    return {
        "norm_scale": before.scale,
        "norm_shift": before.shift,
        "threshold1": -array(mlp.move1.bias),
        "weight1": tile_weights(weight1[order]),
        "scale1": first.scale[order],
        "shift1": first.shift[order],
        "slope1": array(mlp.activation1.slope)[order],
        "threshold2": -(array(mlp.move2.bias) + hidden_shift)[order],
        "weight2": tile_weights(weight2[:, order]),
        "scale2": second.scale,
        "shift2": second.shift,
        "slope2": array(mlp.activation2.slope),
        "out_scale": scale.scale,
        "out_shift": array(mlp.activation2.shift_out) * scale.scale + scale.shift + tap_shift,
        "taps": taps,
    }


def _taps(shift: ShiftBranches | None, channels: int) -> tuple[F64, F64]:
    if shift is None:
        return np.zeros((len(TAPS), channels)), np.zeros(channels)
    taps, constant = copy.deepcopy(shift).double().taps()
    return array(taps), array(constant)


def _attention(block: Block, mixer: WindowAttention) -> Tensors:
    before = norm(block.mixer_norm)
    depth = len(before.scale) // mixer.attention.heads
    pool_mix, local_mix = array(mixer.pool_mix), array(mixer.local_mix)
    attention = mixer.attention
    roles = (attention.query, attention.key, attention.value)
    projections = [_projection(p) for p in roles]
    # The contexts' residual is z_q + z_k + z_v, each of which lacks its activation's shift_out here.
    residual_shift = sum(array(p.activation.shift_out) for p in roles)
    quantizer = attention.quantizer
    assert isinstance(quantizer, DecomposedAttention)  # others have no op: `program` refuses them
    step = array(quantizer.step)
    context = Affine(np.repeat(step, depth), np.zeros(len(before.scale))).then(norm(attention.norm))
    context = context.plus(residual_shift - array(attention.activation.shift_in))
    output = mixer.output
    weight, scale = binary_weight(output.linear)
    projected = Affine(scale, np.zeros_like(scale)).then(norm(output.norm)).plus(-array(output.activation.shift_in))
    after = layer_scale(output.scale)
    return {
        "norm_scale": before.scale,
        "norm_shift": before.shift,
        "pool_max": pool_mix,
        "pool_avg": 1 - pool_mix,
        "token_scale": array(mixer.token_norm.weight),
        "token_shift": array(mixer.token_norm.bias),
        **{name: np.stack([tensors[name] for tensors in projections]) for name in projections[0]},
        # Scores are (d - 2m)/sqrt(d) for m differing bits: e^(score - best) depends on m - min m alone.
        "exp_table": np.exp(-2 * np.arange(depth + 1) / math.sqrt(depth)),
        "level_scale": ATTENTION_LEVELS / step,
        "level_shift": array(quantizer.offset),
        "ctx_scale": context.scale,
        "ctx_shift": context.shift,
        "ctx_slope": array(attention.activation.slope),
        "mix_local": local_mix,
        "mix_global": 1 - local_mix,
        "mix_shift": array(attention.activation.shift_out),  # its two shares add up to the whole
        "proj_threshold": -array(output.move.bias),
        "proj_weight": tile_weights(weight),
        "proj_scale": projected.scale,
        "proj_shift": projected.shift,
        "proj_slope": array(output.activation.slope),
        "out_scale": after.scale,
        "out_shift": array(output.activation.shift_out) * after.scale + after.shift,
    }


def _projection(projection: Projection) -> Tensors:
    weight, scale = binary_weight(projection.linear)
    activation = projection.activation
    folded = Affine(scale, np.zeros_like(scale)).then(norm(projection.norm)).plus(-array(activation.shift_in))
    return {
        "in_threshold": -array(projection.move.bias),
        "qkv_weight": tile_weights(weight),
        # z lacks shift_out; the residual t is added after shift_in was taken from the norm's constant
        "qkv_scale": folded.scale,
        "qkv_shift": folded.shift,
        "qkv_slope": array(activation.slope),
        "qkv_threshold": -(array(activation.shift_out) + array(projection.threshold.bias)),
    }


def _downsample(module: BinaryDownsample) -> Tensors:
    before = norm(module.norm_in)
    weight, scale = binary_weight(module.conv)
    after = Affine(scale, np.zeros_like(scale)).then(norm(module.norm)).plus(-array(module.activation.shift_in))
    return {
        "norm_scale": before.scale,
        "norm_shift": before.shift,
        "threshold": -array(module.move.bias),
        "weight": tile_weights(weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)),
        "scale": after.scale,
        "shift": after.shift,
        "slope": array(module.activation.slope),
        "out_shift": array(module.activation.shift_out),
        "position": _rows(array(module.position)),
    }


def _downsample_float(module: FloatDownsample) -> Tensors:
    before, after = norm(module.norm_in), norm(module.norm)
    weight = array(module.conv.weight).transpose(0, 2, 3, 1)  # (O, 2, 2, C)
    flat = (weight * before.scale).reshape(len(weight), -1)
    return {
        "weight": tile_floats(flat * after.scale[:, None]),
        "bias": (weight * before.shift).sum(axis=(1, 2, 3)) * after.scale + after.shift,
        "position": _rows(array(module.position)),
    }


def _head(head: Head) -> Tensors:
    before = norm(head.norm)
    assert not isinstance(head.linear, nn.Identity)  # `packed_model` has refused it by name
    return {
        "norm_scale": before.scale,
        "norm_shift": before.shift,
        "weight": tile_floats(array(head.linear.weight)),
        "bias": array(head.linear.bias),
    }


def _rows(position: F64) -> F64:
    return position.reshape(-1, position.shape[-1])
