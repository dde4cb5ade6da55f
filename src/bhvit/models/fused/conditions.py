"""When fused layers may take the place of what modules say."""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ..batch_statistics import processes
from . import kernels as native

_ROLES = ("norm", "activation", "learnable_bias", "linear", "conv", "scale")
"""Names of parts, but for a number, that are looked into; their classes have the name as `fused_role`."""

TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of tokens that Triton's kernels take on a GPU."""


def applies(module: nn.Module, x: Tensor) -> bool:
    """Whether `module` may compute its output for `x` by the functions below: nothing that they skip is looked at."""
    if not module.training or torch.compiler.is_compiling() or _hooked_everywhere():
        return False
    gpu = takes_triton(x)
    if gpu is None or (not gpu and processes() > 1):
        return False
    kind = torch.float32 if gpu and torch.is_autocast_enabled(x.device.type) else x.dtype
    return _plain(module, kind, gpu)


def takes_triton(x: Tensor) -> bool | None:
    """Whether the kernels for x are Triton's, on a GPU, or native ones, on a CPU; None if there are none."""
    if type(x) is not Tensor:  # what only looks like one, as in torch.export, has no memory
        return None
    if x.device.type == "cpu":
        return False if x.dtype in native.KERNELS and not torch.is_autocast_enabled("cpu") else None
    return True if x.is_cuda and x.dtype in TRITON_TYPES and triton_works(x.device) else None


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton's kernels compute on a device what they should: tried once, and said where they do not."""
    if not hasattr(torch, "get_autocast_dtype") or find_spec("triton") is None:
        return False
    from .triton_check import check

    try:
        with torch.autocast(device.type, enabled=False):
            check(device)
    except Exception as error:  # whatever a compiler that is absent, old or at fault brings about
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"warning: the Triton kernels do not work here, layers compute as they are: {reason}", file=sys.stderr)
        return False
    return True


def _hooked_everywhere() -> bool:
    """Whether hooks of all modules are registered, which look into each."""
    every = torch.nn.modules.module
    return bool(
        every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    )


def _plain(part: nn.Module, kind: torch.dtype, gpu: bool) -> bool:
    """Whether nothing looks into a module or its parts, all their numbers are of one type, and kernels know them."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    if hooks:
        return False
    if isinstance(part, nn.BatchNorm1d) and not _plain_norm(part, kind):
        return False
    if _role(part) in ("linear", "conv") and any(child is not None for child in part._modules.values()):
        return False  # quantisers of its own
    if gpu and not _has_triton_kernels(part):
        return False
    if any(parameter is not None and parameter.dtype != kind for parameter in part._parameters.values()):
        return False
    return all(
        child is None or (_in_role(name, child) and _plain(child, kind, gpu)) for name, child in part._modules.items()
    )


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


def _has_triton_kernels(part: nn.Module) -> bool:
    """Whether the kernels of a GPU know a part, all of whose weights and activations are one bit to them."""
    if isinstance(part, nn.BatchNorm1d):
        return part.momentum is not None
    config = getattr(part, "quant", None)
    return config is None or (config.weight_bits == config.activation_bits == 1 and not config.recu)


def _plain_norm(norm: nn.BatchNorm1d, kind: torch.dtype) -> bool:
    mean, variance = norm.running_mean, norm.running_var
    return (
        norm.training
        and norm.affine
        and mean is not None
        and variance is not None
        and mean.dtype == variance.dtype == kind
        and mean.is_contiguous()
        and variance.is_contiguous()
    )
