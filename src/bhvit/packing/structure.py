"""Check that a model's modules compute what their classes say, nothing else.

Lowering reads the parameters of modules, never their `forward`. What a subclass, a hook or a replaced module computes
would be dropped in silence, so each module is compared with the one that the model's spec describes.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.utils import parametrize

from ..errors import UserError
from ..models import BHViT

_FREE = {"training", "momentum"}
"""Attributes that evaluation does not read."""
_ITS_OWN = {nn.BatchNorm1d: {"eps"}, BHViT: {"spec", "class_names", "preprocess", "calibration"}}
"""Attributes that packing takes from the module itself, by class."""


def check_unchanged(model: nn.Module) -> None:
    """Raises UserError if something outside its class changes what a module of `model` computes.

    These are forward hooks, a `forward` of one instance, and parametrisations.
    """
    every = torch.nn.modules.module
    if every._global_forward_hooks or every._global_forward_pre_hooks:
        raise UserError("forward hooks are registered for all modules, and a packed file holds none: remove them first")
    for name, module in model.named_modules():
        where = name or "the model"
        if parametrize.is_parametrized(module):
            raise UserError(
                f"{where} has parametrisations, which a packed file cannot hold: "
                "torch.nn.utils.parametrize.remove_parametrizations replaces them by their values"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise UserError(
                f"{where} has forward hooks (pruning and weight_norm add some, too), which a packed file cannot hold: "
                "remove them before packing"
            )
        for attribute in vars(module):
            if callable(getattr(type(module), attribute, None)):
                raise UserError(
                    f"{where} was given another {attribute}, which a packed file cannot hold: delete it, or make it a "
                    "class of its own with a lowering (bhvit.packing.register_lowering)"
                )
        for kind, tensors in (("parameter", module.named_parameters), ("buffer", module.named_buffers)):
            for tensor_name, tensor in tensors(recurse=False):
                if tensor.is_meta:
                    raise UserError(f"{kind} {tensor_name} of {where} holds no numbers: load weights before packing")


def check_structure(model: BHViT) -> None:
    """Raises UserError naming the first module that is not what the spec of `model` describes.

    Classes must be exactly equal, as must attributes, parameters' names and shapes, and submodules in their order.
    """
    with torch.device("meta"):
        expected = BHViT(model.spec)
    _check_module("", model, expected)


def _check_module(name: str, module: nn.Module, expected: nn.Module) -> None:
    if isinstance(expected, nn.Identity) and type(module) is DropPath:
        return  # stochastic depth: nothing in evaluation mode
    where = name or "the model"
    if type(module) is not type(expected):
        given, wanted = class_names(type(module), type(expected))
        raise UserError(f"{where} is of class {given}, not {wanted}: {HOW}")
    free = _FREE.union(*(names for kind, names in _ITS_OWN.items() if isinstance(module, kind)))
    for attribute, value in vars(expected).items():
        found = vars(module).get(attribute)
        if attribute.startswith("_") or attribute in free or (type(found) is type(value) and found == value):
            continue
        raise UserError(
            f"{where} ({type(module).__name__}) has {attribute} {found!r}, but the model's spec asks for {value!r}: "
            "packing takes the model as its spec describes it"
        )
    _check_tensors(where, module, expected)
    children, wanted_children = list(module._modules), list(expected._modules)
    if children != wanted_children:
        odd = next((child for child in children if child not in wanted_children), None)
        if odd is None:
            raise UserError(f"{where} has the parts {', '.join(children)}, not {', '.join(wanted_children)}")
        raise UserError(f"{where} has a part {odd!r} that its spec does not describe: remove it before packing")
    for child, wanted_child in expected._modules.items():
        _check_child(f"{name}.{child}" if name else child, module._modules[child], wanted_child)


def _check_child(name: str, module: nn.Module | None, expected: nn.Module | None) -> None:
    if module is None or expected is None:
        if module is not expected:
            raise UserError(f"{name} is {'missing' if module is None else 'one too many'} by the model's spec")
        return
    _check_module(name, module, expected)


def _check_tensors(where: str, module: nn.Module, expected: nn.Module) -> None:
    for store in ("_parameters", "_buffers"):
        found: dict[str, Any] = getattr(module, store)
        wanted: dict[str, Any] = getattr(expected, store)
        for name in [*wanted, *found]:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (found.get(name), wanted.get(name))]
            if shapes[0] != shapes[1]:
                given, needed = ("none" if shape is None else f"one of shape {shape}" for shape in shapes)
                raise UserError(f"{where} has {given} as its {name}, but the model's spec asks for {needed}")


HOW = (
    "put the module of the package back, or say how yours is stored (bhvit.packing.register_lowering; "
    "`bhvit.create_model` makes the others)"
)
"""How to pack a foreign module."""


def class_names(*classes: type) -> list[str]:
    """Return names of classes, with their modules where the bare names are equal."""
    names = [kind.__qualname__ for kind in classes]
    if len(set(names)) == len(names):
        return names
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in classes]
