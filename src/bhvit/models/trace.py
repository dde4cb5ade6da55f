"""Record the values between a model's parts, named as its packed ops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .network import BHViT
from .segmentation import SegmentationHead


@contextmanager
def recording(
    outputs: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record outputs and inputs of modules by name, in the order of running.

    `outputs` are modules whose results are kept, `inputs` those whose first argument is.
    """
    seen: dict[str, Tensor] = {}
    handles = []

    def record(module: nn.Module, name: str) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output

        handles.append(module.register_forward_hook(hook))

    def record_input(module: nn.Module, name: str) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        handles.append(module.register_forward_pre_hook(hook))

    for name, module in outputs.items():
        record(module, name)
    for name, module in (inputs or {}).items():
        record_input(module, name)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def trace(model: BHViT, images: Tensor) -> dict[str, Tensor]:
    """Run images and return what each op of the packed program would give.

    images: (B, in_chans, H, W).

    Keys are op names (`ops.program`) in order; values the residual stream after the op, (B, H, W, C),
    and for "head" the logits (B, classes), or of pixels (B, classes, H, W). The model's mode is left as it is.
    """
    outputs: dict[str, nn.Module] = {"stem": model.stem, "head": model.head}
    inputs: dict[str, nn.Module] = {}
    blocks: dict[str, nn.Module] = {}
    for index, stage in enumerate(model.stages):
        if index:
            outputs[f"downsamples.{index - 1}"] = model.downsamples[index - 1]
        blocks |= {f"stages.{index}.{number}": block for number, block in enumerate(stage.children())}
    if isinstance(model.head, SegmentationHead):
        outputs |= {f"head.laterals.{index}": lateral for index, lateral in enumerate(model.head.laterals)}
        outputs |= {f"head.sums.{index}": module for index, module in enumerate(model.head.sums)}
        blocks |= {f"head.blocks.{number}": block for number, block in enumerate(model.head.blocks)}
    for name, block in blocks.items():
        inputs[f"{name}.mixer"] = block.get_submodule("mlp_norm")
        outputs[f"{name}.mlp"] = block
    with recording(outputs, inputs) as seen:
        model(images)
    return seen
