"""Models with random weights and random, non-degenerate norm statistics."""

from __future__ import annotations

import torch
from torch import nn

from bhvit.models import BHViT


@torch.no_grad()
def randomise(model: BHViT, seed: int = 0) -> BHViT:
    """Draw every parameter and statistic of `model` anew and put it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("num_batches_tracked", "initialised"):
            continue
        if leaf == "running_var":
            uniform(tensor, 0.5, 2.0)
        elif leaf == "slope":
            uniform(tensor, -0.2, 0.5)
        elif leaf in ("pool_mix", "local_mix"):
            uniform(tensor, 0.2, 0.8)
        elif leaf == "step":
            uniform(tensor, 0.02, 0.2)
        elif leaf == "offset":
            normal(tensor, 0.0, 0.02)
        elif "norm" in name and leaf == "weight":
            uniform(tensor, 0.5, 1.5)
        elif leaf == "weight":
            normal(tensor, 0.0, 0.05)
        else:  # biases, moves, shifts, layer scales, position maps, running means
            normal(tensor, 0.0, 0.2)
    for module in model.modules():
        if isinstance(module, nn.Module) and hasattr(module, "quantizer"):
            module.quantizer.initialised.fill_(1)
    return model.eval()
