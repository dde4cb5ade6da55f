"""Lowering: each module of a trained network becomes the tensors of one op (`ops` says what they mean)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from ..bits import tile_floats
from ..format.arithmetic import TAPS
from ..models.attention_quantizers import (
    LEAST_SCALE,
    DecomposedAttention,
    GroupSuperpositionAttention,
    OneBitAttention,
)
from ..models.layers import QuantConv2d, QuantLinear, RPReLU, ShiftBranches
from ..models.mixers import (
    AttentionOutput,
    ConvMixer,
    PooledAttention,
    PoolMixer,
    QuantAttention,
    ResidualUnit,
    WindowAttention,
)
from ..models.network import BHViT, BinaryDownsample, Block, FloatDownsample, Head, Stem
from ..spec.model import ATTENTION_LEVELS
from .fold import F64, Affine, array, layer_scale, norm, normed, stored_weight, tile

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
            elif isinstance(mixer, PooledAttention):
                yield f"{name}.mixer", _pooled_attention(block, mixer)
            else:
                assert isinstance(mixer, PoolMixer)
                yield f"{name}.mixer", _pooling(block, mixer)
            yield f"{name}.mlp", _mlp(block)
    yield "head", _head(model.head)


def _stem(stem: Stem) -> Tensors:
    weight = array(stem.conv.weight).reshape(stem.conv.out_channels, -1)
    bias = array(stem.conv.bias) if stem.conv.bias is not None else np.zeros(len(weight))
    folded = norm(stem.norm)
    position = {"position": _rows(array(stem.position))}
    if isinstance(stem.norm, nn.LayerNorm):
        return {"weight": tile_floats(weight), "bias": bias, **_affine("norm", folded), **position}
    return {
        "weight": tile_floats(weight * folded.scale[:, None]),
        "bias": bias * folded.scale + folded.shift,
        **position,
    }


def _mixer(block: Block, mixer: ConvMixer) -> Tensors:
    tensors: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in ("weight", "scale", "shift", "slope")}
    constant: Any = 0.0
    for conv, activation in zip(mixer.convs, mixer.activations, strict=True):
        assert isinstance(conv, QuantConv2d)
        assert isinstance(activation, RPReLU)
        weight, scale = stored_weight(conv)
        tensors["weight"].append(tile(conv, weight))
        tensors["scale"].append(scale)
        tensors["shift"].append(array(conv.get_parameter("bias")) - array(activation.shift_in))
        tensors["slope"].append(array(activation.slope))
        constant = constant + array(activation.shift_out)
    after = norm(mixer.norm)
    layer = isinstance(mixer.norm, nn.LayerNorm)
    return {
        **_affine("norm", norm(block.mixer_norm).plus(array(mixer.move.bias))),
        **{name: np.stack(parts) for name, parts in tensors.items()},
        **({"sum_shift": constant} if layer else {}),
        **_affine("out", after if layer else Affine(np.ones_like(constant), constant).then(after)),
    }


def _pooling(block: Block, mixer: PoolMixer) -> Tensors:
    return {**_affine("norm", norm(block.mixer_norm)), **_affine("out", norm(mixer.norm))}


def _mlp(block: Block) -> Tensors:
    mlp = block.mlp
    r, channels = mlp.expansion, mlp.linear2.out_features
    # Stored hidden (i, c) is published hidden r*c + i (see `ops`).
    order = np.arange(r * channels).reshape(channels, r).T.reshape(-1)
    hidden_shift = array(mlp.activation1.shift_out)
    # u = z + hidden_shift: its mean over each run of r channels joins the second layer's constant.
    means = hidden_shift.reshape(channels, r).mean(axis=1)
    first = _linear(mlp.linear1, mlp.norm1, "1", outputs=order, plus=-array(mlp.activation1.shift_in))
    second = _linear(mlp.linear2, mlp.norm2, "2", inputs=order, plus=means - array(mlp.activation2.shift_in))
    taps, tap_shift = _taps(block.shift, channels)
    return {
        **_affine("norm", norm(block.mlp_norm)),
        "threshold1": -array(mlp.move1.bias),
        **first,
        "slope1": array(mlp.activation1.slope)[order],
        "threshold2": -(array(mlp.move2.bias) + hidden_shift)[order],
        **second,
        "slope2": array(mlp.activation2.slope),
        **_affine("out", _after(mlp.activation2, layer_scale(mlp.scale)).plus(tap_shift)),
        "taps": taps,
    }


def _linear(
    layer: QuantLinear | QuantConv2d,
    after: nn.Module,
    suffix: str = "",
    *,
    plus: F64,
    outputs: npt.NDArray[Any] | slice = slice(None),
    inputs: npt.NDArray[Any] | slice = slice(None),
) -> Tensors:
    """Weight, scale and shift of a layer, the norm after it and a constant `plus`, its channels put in order."""
    weight, scale = stored_weight(layer)
    folded, tensors = normed(scale, after)
    tensors |= {"scale": folded.scale, "shift": folded.shift + plus}
    ordered = {f"{name}{suffix}": value[outputs] for name, value in tensors.items()}
    return {f"weight{suffix}": tile(layer, weight[outputs][:, inputs]), **ordered}


def _taps(shift: ShiftBranches | None, channels: int) -> tuple[F64, F64]:
    if shift is None:
        return np.zeros((len(TAPS), channels)), np.zeros(channels)
    taps, constant = copy.deepcopy(shift).double().taps()
    return array(taps), array(constant)


def _attention(block: Block, mixer: WindowAttention) -> Tensors:
    pool_mix, local_mix = array(mixer.pool_mix), array(mixer.local_mix)
    return {
        **_affine("norm", norm(block.mixer_norm)),
        "pool_max": pool_mix,
        "pool_avg": 1 - pool_mix,
        **_affine("token", norm(mixer.token_norm)),
        **_attend(mixer.attention),
        "mix_local": local_mix,
        "mix_global": 1 - local_mix,
        **_output(mixer.output),
    }


def _pooled_attention(block: Block, mixer: PooledAttention) -> Tensors:
    reduction: Tensors = {}
    if isinstance(mixer.reduction, ResidualUnit):
        unit = _unit(mixer.reduction)
        unit["shift_in"] = unit.pop("shift")  # `reduce_shift` follows the activation
        unit["shift"] = array(mixer.reduction.activation.shift_out)
        reduction = {f"reduce_{name}": tensor for name, tensor in unit.items()}
    return {
        **_affine("norm", norm(block.mixer_norm)),
        **reduction,
        **_attend(mixer.attention),
        **_output(mixer.output),
    }


def _attend(attention: QuantAttention) -> Tensors:
    """Projections, matrix and context of an attention."""
    roles = (attention.query, attention.key, attention.value)
    projections = [_unit(p) for p in roles]
    channels, heads = attention.query.linear.out_features, attention.heads
    depth = channels // heads
    step, matrix = _matrix(attention.quantizer, heads, depth)
    context, tensors = normed(np.repeat(step, depth), attention.norm)
    # The contexts' residual is z_q + z_k + z_v, each of which lacks its activation's shift_out here.
    residual_shift = sum(array(p.activation.shift_out) for p in roles)
    return {
        **{f"qkv_{name}": np.stack([p[name] for p in projections]) for name in projections[0] if name != "threshold"},
        "in_threshold": np.stack([p["threshold"] for p in projections]),
        "qkv_threshold": np.stack([-(array(p.activation.shift_out) + array(p.threshold.bias)) for p in roles]),
        **matrix,
        **{f"ctx_{name}": tensor for name, tensor in tensors.items()},
        **_affine("ctx", context.plus(residual_shift - array(attention.activation.shift_in))),
        "ctx_slope": array(attention.activation.slope),
        "mix_shift": array(attention.activation.shift_out),  # the shares of local and global add up to the whole
    }


def _matrix(quantizer: nn.Module, heads: int, depth: int) -> tuple[F64, Tensors]:
    """What a level of the attention matrix is worth, a head, and the tensors that make the levels."""
    if isinstance(quantizer, nn.Identity):
        return np.ones(heads), {}
    tensors: Tensors = {
        # Scores are (d - 2m)/sqrt(d) for m differing bits: e^(score - best) depends on m - min m alone.
        "exp_table": np.exp(-2 * np.arange(depth + 1) / math.sqrt(depth)),
        "level_shift": np.zeros(heads),
    }
    if isinstance(quantizer, DecomposedAttention):
        step = array(quantizer.step)
        return step, {**tensors, "level_scale": ATTENTION_LEVELS / step, "level_shift": array(quantizer.offset)}
    assert isinstance(quantizer, OneBitAttention | GroupSuperpositionAttention)
    if isinstance(quantizer, GroupSuperpositionAttention):
        scale, second, third = (
            max(array(s).item(), LEAST_SCALE) for s in (quantizer.scale, quantizer.scale2, quantizer.scale3)
        )
        # T0 + T1*second + T2*third, of masks that include each other: level, upper (T1 + T2), high (T2).
        tensors["plane_scale"] = np.array([second - 1, third - second])
    else:
        scale = array(quantizer.scale).item()
    step = np.full(heads, scale)
    return step, {**tensors, "level_scale": 1 / step}


def _unit(unit: ResidualUnit) -> Tensors:
    """A residual unit but for its activation's shift_out."""
    return {
        "threshold": -array(unit.move.bias),
        # The residual is added after shift_in was taken from the norm's constant.
        **_linear(unit.linear, unit.norm, plus=-array(unit.activation.shift_in)),
        "slope": array(unit.activation.slope),
    }


def _output(output: AttentionOutput) -> Tensors:
    return {
        **{f"proj_{name}": tensor for name, tensor in _unit(output).items()},
        **_affine("out", _after(output.activation, layer_scale(output.scale))),
    }


def _downsample(module: BinaryDownsample) -> Tensors:
    return {
        **_affine("norm", norm(module.norm_in)),
        "threshold": -array(module.move.bias),
        **_linear(module.conv, module.norm, plus=-array(module.activation.shift_in)),
        "slope": array(module.activation.slope),
        "out_shift": array(module.activation.shift_out),
        "position": _rows(array(module.position)),
    }


def _downsample_float(module: FloatDownsample) -> Tensors:
    before, after = norm(module.norm_in), norm(module.norm)
    weight = array(module.conv.weight).transpose(0, 2, 3, 1)  # (O, 2, 2, C)
    position = {"position": _rows(array(module.position))}
    if isinstance(module.norm, nn.LayerNorm):
        tiles = tile_floats(weight.reshape(len(weight), -1))
        return {"weight": tiles, **_affine("norm", before), "scale": after.scale, "shift": after.shift, **position}
    flat = (weight * before.scale).reshape(len(weight), -1)
    return {
        "weight": tile_floats(flat * after.scale[:, None]),
        "bias": (weight * before.shift).sum(axis=(1, 2, 3)) * after.scale + after.shift,
        **position,
    }


def _head(head: Head) -> Tensors:
    assert not isinstance(head.linear, nn.Identity)  # `packed_model` has refused it by name
    return {
        **_affine("norm", norm(head.norm)),
        "weight": tile_floats(array(head.linear.weight)),
        "bias": array(head.linear.bias),
    }


def _affine(name: str, folded: Affine) -> Tensors:
    return {f"{name}_scale": folded.scale, f"{name}_shift": folded.shift}


def _after(activation: RPReLU, after: Affine) -> Affine:
    """`after` with the activation's shift_out before it, which the ops leave out of the activation."""
    return Affine(after.scale, array(activation.shift_out) * after.scale + after.shift)


def _rows(position: F64) -> F64:
    return position.reshape(-1, position.shape[-1])
