"""Names of the published BHViT weights, mapped to ours; some of theirs are historical.

Ours are the field's words. One table serves both directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..spec import ModelSpec

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_RPRELU = {"shift_in": "move1", "slope": "prelu.weight", "shift_out": "move2"}
_SCALE = {"scale": "alpha", "shift": "move"}


def _group(ours: str, theirs: str, leaves: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in leaves.items()}


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return _group(ours, theirs, {leaf: leaf for leaf in _NORM})


def _conv_mixer(ours: str, theirs: str) -> dict[str, str]:
    names = {f"{ours}.move.bias": f"{theirs}.GC.move.bias"} | _norm(f"{ours}.norm", f"{theirs}.GC.norm")
    for i in range(3):
        for leaf in ("weight", "bias"):
            names[f"{ours}.convs.{i}.{leaf}"] = f"{theirs}.GC.cov{i + 1}.{leaf}"
        names |= _group(f"{ours}.activations.{i}", f"{theirs}.GC.act{i + 1}", _RPRELU)
    return names


def _attention(ours: str, theirs: str) -> dict[str, str]:
    inner, output = f"{theirs}.attention.attention", f"{theirs}.attention.output"
    names = {
        f"{ours}.pool_mix": f"{inner}.token_FA.a1",
        f"{ours}.token_norm.weight": f"{inner}.token_FA.norm.weight",
        f"{ours}.token_norm.bias": f"{inner}.token_FA.norm.bias",
        f"{ours}.local_mix": f"{inner}.parm",
        f"{ours}.quantizer.step": f"{inner}.att_prob_quantizer.alpha",
        f"{ours}.quantizer.offset": f"{inner}.att_prob_quantizer.zero_point",
        f"{ours}.quantizer.initialised": f"{inner}.att_prob_quantizer.init_state",
        f"{ours}.output.move.bias": f"{output}.move",
        f"{ours}.output.linear.weight": f"{output}.dense.weight",
    }
    for role in ("query", "key", "value"):
        letter = role[0]
        names |= {
            f"{ours}.{role}.move.bias": f"{inner}.move{letter}",
            f"{ours}.{role}.linear.weight": f"{inner}.{role}.weight",
            f"{ours}.{role}.threshold.bias": f"{inner}.move{letter}2",
        }
        names |= _norm(f"{ours}.{role}.norm", f"{inner}.norm{letter}")
        names |= _group(f"{ours}.{role}.activation", f"{inner}.rprelu{letter}", _RPRELU)
    names |= _norm(f"{ours}.norm", f"{inner}.norm_context")
    names |= _group(f"{ours}.activation", f"{inner}.rprelu_context", _RPRELU)
    names |= _norm(f"{ours}.output.norm", f"{output}.norm")
    names |= _group(f"{ours}.output.activation", f"{output}.rprelu", _RPRELU)
    return names | _group(f"{ours}.output.scale", f"{output}.layerscale", _SCALE)


def _mlp(ours: str, theirs: str) -> dict[str, str]:
    names = _group(f"{ours}.scale", f"{theirs}.output.layerscale", _SCALE)
    for i, part in ((1, "intermediate"), (2, "output")):
        names |= {
            f"{ours}.move{i}.bias": f"{theirs}.{part}.move",
            f"{ours}.linear{i}.weight": f"{theirs}.{part}.dense.weight",
        }
        names |= _norm(f"{ours}.norm{i}", f"{theirs}.{part}.norm")
        names |= _group(f"{ours}.activation{i}", f"{theirs}.{part}.rprelu", _RPRELU)
    return names


def _downsample(ours: str, theirs: str, binary: bool) -> dict[str, str]:
    names = {f"{ours}.conv.weight": f"{theirs}.proj.weight", f"{ours}.position": f"{theirs}.position_embeddings"}
    names |= _norm(f"{ours}.norm_in", f"{theirs}.norm0") | _norm(f"{ours}.norm", f"{theirs}.norm")
    if binary:
        names |= {f"{ours}.move.bias": f"{theirs}.move"} | _group(f"{ours}.activation", f"{theirs}.rprelu", _RPRELU)
    return names


def to_published_names(spec: ModelSpec) -> dict[str, str]:
    """Our state-dict names -> the published ones, for every entry of a model of `spec`."""
    stem = "vit.embeddings.patch_embeddings"
    names = {
        "stem.conv.weight": f"{stem}.proj.weight",
        "stem.conv.bias": f"{stem}.proj.bias",
        "stem.position": "vit.embeddings.position_embeddings",
        "head.linear.weight": "classifier.weight",
        "head.linear.bias": "classifier.bias",
    }
    names |= _norm("stem.norm", f"{stem}.norm") | _norm("head.norm", "vit.layernorm")
    counts = {"conv": 0, "attention": 0}
    for index, stage in enumerate(spec.stages):
        if index:
            names |= _downsample(
                f"downsamples.{index - 1}", f"vit.encoder.patch_embed{index}", spec.downsample == "binary"
            )
        for number in range(stage.depth):
            ours = f"stages.{index}.{number}"
            theirs = f"vit.encoder.layer{'A' if stage.mixer == 'conv' else 'B'}.{counts[stage.mixer]}"
            counts[stage.mixer] += 1
            names |= _norm(f"{ours}.mixer_norm", f"{theirs}.layernorm_before")
            names |= _norm(f"{ours}.mlp_norm", f"{theirs}.layernorm_after")
            names |= (_conv_mixer if stage.mixer == "conv" else _attention)(f"{ours}.mixer", theirs)
            names |= _mlp(f"{ours}.mlp", theirs)
            for width in spec.shifts:
                for ours_kind, theirs_kind in (("h", "h"), ("w", "w"), ("c", "ch")):
                    names |= _group(
                        f"{ours}.shift.scales.{ours_kind}{width}", f"{theirs}.layerscale_{theirs_kind}{width}", _SCALE
                    )
    return names


def published_state(
    spec: ModelSpec, published: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """A published state dict -> ours: renamed, position maps as (H, W, C) grids, single channels flat."""
    state = {}
    for ours, theirs in to_published_names(spec).items():
        value = np.asarray(published[theirs])
        if ours == "stem.position":
            value = value[0].transpose(1, 2, 0)
        elif ours.endswith(".position"):
            height, width = spec.grid(int(ours.split(".")[1]) + 1)
            value = value.reshape(height, width, -1)
        elif ours.endswith((".move.bias", "pool_mix", "local_mix")):
            value = value.reshape(-1)
        state[ours] = value
    return state
