"""Models with random weights and random, non-degenerate norm statistics."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def randomise(model: Model, seed: int = 0) -> Model:
    """Draw every parameter and statistic of `model` at random and put it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            continue
        if leaf == "initialised":
            tensor.fill_(1)
        elif leaf == "running_var":
            uniform(tensor, 0.5, 2.0)
        elif leaf == "slope":
            uniform(tensor, -0.2, 0.5)
        elif leaf in ("pool_mix", "local_mix"):
            uniform(tensor, 0.2, 0.8)
        elif "quantizer" in name and leaf == "offset":
            normal(tensor, 0.0, 0.02)
        elif "quantizer" in name:  # steps: positive, spread over the softmax's range
            uniform(tensor, 0.02, 0.2)
        elif "norm" in name and leaf == "weight":
            uniform(tensor, 0.5, 1.5)
        elif leaf == "weight":
            normal(tensor, 0.0, 0.05)
        else:  # biases, moves, shifts, layer scales, position maps, running means
            normal(tensor, 0.0, 0.2)
    return model.eval()
