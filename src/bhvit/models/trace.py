"""What flows between the parts of a model, under the names that its packed program gives its ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .network import BHViT


@torch.no_grad()
def trace(model: BHViT, images: Tensor) -> dict[str, Tensor]:
    """Run `images` (B, in_chans, H, W) and return what each op of the packed program would give.

    Keys are op names (`ops.program`) in order; values the residual stream after the op, (B, H, W, C),
    and for "head" the logits (B, classes). The model's mode is left as it is.
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

    record(model.stem, "stem")
    for index, stage in enumerate(model.stages):
        if index:
            record(model.downsamples[index - 1], f"downsamples.{index - 1}")
        for number, block in enumerate(stage.children()):
            record_input(block.get_submodule("mlp_norm"), f"stages.{index}.{number}.mixer")
            record(block, f"stages.{index}.{number}.mlp")
    record(model.head, "head")
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen
