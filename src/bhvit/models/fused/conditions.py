"""When fused layers may take the place of what modules say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batch_statistics import processes
from . import kernels as native

_ROLES = ("norm", "activation", "move", "linear", "conv", "scale")
"""Names of parts, but for a number, that are looked into; their classes have the name as `fused_role`."""


def applies(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` may compute its output for `x` by the functions below: nothing that they skip is looked at."""
    return (
        module.training
        and type(x) is Tensor  # what only looks like one, as in torch.export, has no memory
        and x.device.type == "cpu"
        and x.dtype in native.KERNELS
        and processes() == 1
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not _hooked_everywhere()
        and _plain(module, x)
    )


def _hooked_everywhere() -> bool:
    """Whether hooks of all modules are registered, which look into each."""
    every = torch.nn.modules.module
    return bool(
        every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    )


def _plain(part: nn.Module, x: Tensor) -> bool:
    """Whether nothing looks into a module or its parts, and all their numbers are of the type of x."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    if hooks:
        return False
    if isinstance(part, nn.BatchNorm1d) and not _plain_norm(part, x):
        return False
    if _role(part) in ("linear", "conv") and any(child is not None for child in part._modules.values()):
        return False  # quantisers of its own
    if any(parameter is not None and parameter.dtype != x.dtype for parameter in part._parameters.values()):
        return False
    return all(child is None or (_in_role(name, child) and _plain(child, x)) for name, child in part._modules.items())


def _in_role(name: str, part: nn.Module) -> bool:
    """Whether a part is of the class that the functions below take it for: others may have been put in its place."""
    if isinstance(part, nn.ModuleList):
        return all(_in_role(name.removesuffix("s"), each) for each in part)
    role = name.rstrip("0123456789")
    return role not in _ROLES or _role(part) == role


def _role(part: nn.Module) -> str | None:
    """The role that the very class of a part has."""
    role: str | None = vars(type(part)).get("fused_role")
    return role


def _plain_norm(norm: nn.BatchNorm1d, x: Tensor) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return (
        norm.training
        and norm.affine
        and mean is not None
        and variance is not None
        and mean.dtype == variance.dtype == x.dtype
        and mean.is_contiguous()
        and variance.is_contiguous()
    )
