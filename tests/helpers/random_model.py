"""Packed models of any spec with random but sane tensors, for tests and measurements. No PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bhvit.format import program as ops
from bhvit.format.file import PackedModel
from bhvit.format.op import Op
from bhvit.image import Preprocess
from bhvit.spec.model import ModelSpec, StageSpec


def random_model(spec: ModelSpec, seed: int = 0, half: bool = False) -> PackedModel:
    """A model of `spec` whose signals stay of the order of one; `half` stores its numbers as float16."""
    rng = np.random.default_rng(seed)
    program = ops.program(spec)
    tensors = {}
    for op in program:
        for name, (kind, shape) in op.shapes().items():
            if kind == "bits":
                tensor = rng.integers(0, 1 << 32, shape, np.uint32)
                if op.kind == "mixer":
                    _clear_tail(tensor, _inputs(op, name))
            else:
                tensor = _numbers(op, name, shape, rng).astype(np.float16 if half else np.float32)
            tensors[f"{op.name}.{name}"] = tensor
    return PackedModel(
        spec=spec,
        ops=tuple(program),
        tensors=tensors,
        class_names=tuple(f"class {i}" for i in range(spec.num_classes)),
        preprocess=Preprocess(
            size=spec.img_size,
            channels=spec.in_chans,
            mean=(0.5,) * spec.in_chans,
            std=(0.25,) * spec.in_chans,
            crop=1.0,
        ),
    )


def random_images(spec: ModelSpec, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Normal numbers of the shape that `spec` takes."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, spec.in_chans, *spec.img_size), np.float32)


def bhvit(name: str, depths: tuple[int, ...], img_size: tuple[int, int], **changes: Any) -> ModelSpec:
    """A spec of the published BHViT widths."""
    widths, hidden, heads = (64, 128, 256, 512), (512, 1024, 1024, 2048), (1, 1, 4, 8)
    stages = tuple(
        StageSpec(
            depth=depth, channels=widths[i], hidden=hidden[i], mixer="conv" if i < 2 else "attention", heads=heads[i]
        )
        for i, depth in enumerate(depths)
    )
    return ModelSpec(name=name, img_size=img_size, stages=stages, **changes)


def _numbers(op: Op, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    normal = rng.standard_normal(shape)
    if name == "exp_table":
        return np.exp(-2 * np.arange(shape[0]) / math.sqrt(shape[0] - 1))
    if name == "level_scale":
        return rng.uniform(2, 20, shape)
    if name == "level_shift":
        return rng.uniform(-0.3, 0.3, shape)
    if "weight" in name and "scale" not in name:
        return normal / math.sqrt(_inputs(op, name) if op.kind in ("mixer", "downsample") else shape[-2])
    if name == "taps":
        return normal * 0.1
    if name in ("pool_max", "pool_avg", "mix_local", "mix_global"):
        return rng.uniform(0.2, 0.8, shape)
    if "slope" in name:
        return normal * 0.5
    if "shift" in name or "threshold" in name or name in ("bias", "position"):
        return normal * 0.3
    if name in ("norm_scale", "token_scale"):
        return normal + np.sign(normal) * 0.3
    if name == "out_scale":
        return normal * 0.3
    if "weight_scale" in name:
        return rng.uniform(0.5, 1.5, shape)
    if name == "plane_scale":
        return normal * 0.1
    if "scale" in name and op.option("norm") == "layer" and op.kind != "mixer":
        return normal
    # Scales of binary products: about 1/sqrt(inputs), so that the products are of the order of one.
    return (normal + np.sign(normal) * 0.3) / math.sqrt(_inputs(op, name))


def _inputs(op: Op, name: str) -> int:
    a = op.attributes
    if op.kind == "mixer":
        return 9 * a["channels"] // a["groups"]
    if op.kind == "downsample":
        return 4 * a["channels"]
    if name in ("scale2", "weight2"):
        return a["hidden"]
    if name == "ctx_scale":
        return 4 * (a["window_h"] * a["window_w"] if op.kind == "attention" else a["height"] // a["key_pool"])
    return a["channels"]


def _clear_tail(tiles: npt.NDArray[np.uint32], length: int) -> None:
    if length % 32:
        tiles[..., -1, :] &= np.uint32((1 << length % 32) - 1)
