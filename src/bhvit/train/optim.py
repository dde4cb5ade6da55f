"""The optimiser, and its learning rate as a function of the step."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from ..errors import UserError
from ..spec.values import nearest
from .settings import OptimizerSettings, ScheduleSettings

NEED_OTHER_LOOPS = ("adahessian", "lookahead", "bnb", "fused", "kron")
"""Beginnings of names that `list_optimizers` gives, of optimisers that need second derivatives, packages of their
own, or another optimiser to wrap, or whose state a file of tensors and numbers cannot hold."""
_SET_AT_START = ("params", "lr", "initial_lr", "lr_scale", "weight_decay")
"""Keys of a group of parameters that its making or the loop sets."""


def check_optimizer(settings: OptimizerSettings, model: nn.Module) -> None:
    """Raises UserError if there is no such optimiser, or it cannot be made for `model`."""
    names = [name for name in list_optimizers() if not name.startswith(NEED_OTHER_LOOPS)]
    if settings.opt not in names:
        known = nearest(settings.opt, names) if settings.opt not in list_optimizers() else "; it needs another loop"
        raise UserError(f"there is no optimiser {settings.opt!r} for training{known}")
    try:
        defaults = make_optimizer(model, settings).defaults
    except (TypeError, ValueError, IndexError, AssertionError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot make the optimiser {settings.opt}: {reason}") from None
    for name, given in (("betas", bool(settings.opt_betas)), ("eps", settings.opt_eps is not None)):
        if given and name not in defaults:
            raise UserError(f"opt_{name} has no effect: the optimiser {settings.opt} has no {name}")


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, static: bool = False) -> torch.optim.Optimizer:
    """Make timm's optimiser `opt`.

    Weight decay is for matrices and convolutions only; with `layer_decay` below 1 early blocks have smaller rates.
    A group's "lr_scale" is its factor of the learning rate. With `static` it counts in tensors, if it can.
    """
    if settings.layer_decay < 1:
        groups = param_groups_layer_decay(model, settings.weight_decay, layer_decay=settings.layer_decay)
    else:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
    # One fused pass over hundreds of small tensors instead of a dozen passes over each.
    fused = settings.opt in ("adam", "adamw") or (static and settings.opt in ("sgd", "momentum"))
    extra: dict[str, Any] = {"fused": True} if fused else {}
    if static and settings.opt in ("adam", "adamw"):
        extra["capturable"] = True
    if settings.opt_betas:
        extra["betas"] = settings.opt_betas
    if settings.opt_eps is not None:
        extra["eps"] = settings.opt_eps
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, settings.opt, lr=settings.lr, momentum=settings.momentum, **extra
    )
    if "capturable" in extra:  # PyTorch would warn of the steps that are called before one is captured
        optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimiser: tensors by "parameter:key", and numbers for JSON.

    Numbers are there only of optimisers that count outside of tensors; AdamW has none.
    """
    tensors: dict[str, Tensor] = {}
    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}:{key}"] = value
            else:
                state[f"{name}:{key}"] = value
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(optimizer.param_groups):
        groups.append({})
        for key, value in group.items():
            if key in _SET_AT_START:
                continue
            if isinstance(value, Tensor):
                tensors[f"group.{index}:{key}"] = value
            elif key not in optimizer.defaults or value != optimizer.defaults[key]:
                groups[-1][key] = value
    numbers = {"state": state, "groups": groups} if state or any(groups) else {}
    return tensors, numbers


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Restore an optimiser of the same settings from `optimizer_state`."""
    state: dict[str, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for group, kept in zip(groups, numbers.get("groups", [])):
        group |= kept
    for name, value in [*tensors.items(), *numbers.get("state", {}).items()]:
        parameter, _, key = name.rpartition(":")
        if parameter.startswith("group."):
            groups[int(parameter[len("group.") :])][key] = value
        else:
            state.setdefault(parameter, {})[key] = value
    index = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    named = dict(model.named_parameters())
    # Through the optimiser's own loader, which casts and moves each tensor as it needs.
    optimizer.load_state_dict(
        {"state": {index[id(named[name])]: values for name, values in state.items()}, "param_groups": groups}
    )


def rates(optimizer: torch.optim.Optimizer, rate: float) -> list[float]:
    """The rate of every group of parameters where the learning rate is `rate`."""
    return [rate * group.get("lr_scale", 1.0) for group in optimizer.param_groups]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters its rate."""
    for group, own in zip(optimizer.param_groups, rates(optimizer, rate)):
        group["lr"] = own


def takes_tensor_rates(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all that changes from step to step can lie in tensors, `hold_rates` among it."""
    return type(optimizer) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) and all(
        group.get("fused") for group in optimizer.param_groups
    )


def hold_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    """Keep the rates of all groups in one tensor (groups,) on `device`.

    What is written there is the learning rate.
    """
    # Kernels of a GPU read float32, those of a CPU the number that Python has.
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    held = torch.zeros(len(optimizer.param_groups), dtype=dtype, device=device)
    for group, own in zip(optimizer.param_groups, held.unbind()):
        group["lr"] = own
    return held


def learning_rate(settings: ScheduleSettings, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step `step` (from 0): linear warm-up, then the schedule `sched`."""
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / math.ceil(warmup)
    if settings.sched == "constant":
        return settings.lr
    if settings.sched == "cosine":
        progress = (step - warmup) / max(1.0, total - warmup)
        return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * progress)) / 2
    scheduler, optimizer = _timm_schedule(
        settings.sched,
        settings.lr,
        settings.min_lr,
        settings.decay_epochs,
        settings.decay_milestones,
        settings.decay_rate,
        max(1, math.ceil(total - warmup)),
        steps_per_epoch,
    )
    scheduler.step_update(math.floor(step - warmup))
    return float(optimizer.param_groups[0]["lr"])


@functools.lru_cache(maxsize=8)
def _timm_schedule(
    name: str,
    lr: float,
    min_lr: float,
    decay_epochs: float,
    milestones: tuple[int, ...],
    decay_rate: float,
    steps: int,
    steps_per_epoch: int,
) -> tuple[Any, torch.optim.Optimizer]:
    """timm's schedule over `steps` optimiser steps, and the optimiser whose rate it sets."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        name,
        num_epochs=steps,
        decay_epochs=decay_epochs * steps_per_epoch,
        decay_milestones=[epochs * steps_per_epoch + 1 for epochs in milestones],
        decay_rate=decay_rate,
        min_lr=min_lr,
        warmup_lr=lr,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler, optimizer
