"""AdamW and its learning rate, which is a function of the step alone: nothing of it needs saving."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and convolutions only, and smaller rates for early blocks if asked.

    A group's "lr_scale" is its factor of the learning rate.
    """
    if config.layer_decay < 1:
        layers = param_groups_layer_decay(model, config.weight_decay, layer_decay=config.layer_decay)
        return torch.optim.AdamW(layers, lr=config.lr, fused=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # One fused pass over hundreds of small tensors instead of a dozen passes over each.
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up, then a cosine to `min_lr`."""
    warmup = config.warmup_epochs * steps_per_epoch
    total = config.epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / math.ceil(warmup)
    progress = (step - warmup) / max(1.0, total - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2
