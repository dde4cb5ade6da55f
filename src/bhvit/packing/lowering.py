"""Lowering registered modules: what a module of another class is packed as.

A packed program knows the modules of this package. A module of your own packs when a registered function gives
one of them that computes the same in evaluation mode.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..errors import UserError
from ..models import BHViT
from ..models.attention_quantizers import DecomposedAttention, GroupSuperpositionAttention, OneBitAttention
from ..models.binary import evaluated
from ..models.layers import QuantConv2d, QuantLinear
from ..models.mixers import Projection, QuantAttention, TokenMixer
from ..models.quantizers import Sign
from ..spec.model import AttentionQuantizer, ModelSpec, StageSpec
from ..spec.registry import ACTIVATIONS, ATTENTION_QUANTIZERS
from .structure import HOW, check_structure, check_unchanged

M = TypeVar("M", bound=nn.Module)
Lowering = Callable[[M], nn.Module]

_LOWERINGS: dict[type[nn.Module], Lowering[Any]] = {}
_QUANTIZERS: dict[type[nn.Module], AttentionQuantizer] = {
    DecomposedAttention: "decomposition",
    GroupSuperpositionAttention: "gsb",
    OneBitAttention: "one_bit",
}


def register_lowering(module_class: type[M]) -> Callable[[Lowering[M]], Lowering[M]]:
    """Decorator that registers what modules of exactly this class are packed as.

    The function takes the module and returns one that computes the same in evaluation mode: of this package, or of a
    class with a lowering of its own. It holds for the class alone, not for its subclasses; registering it again
    replaces it. `bhvit verify` compares the packed file with the model.
    Raises UserError if `module_class` is no module class or belongs to this package.
    """
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise UserError(f"a lowering is registered for a class of modules, not for {module_class!r}")
    if module_class.__module__.partition(".")[0] == __package__.partition(".")[0]:
        raise UserError(f"{module_class.__qualname__} is packed as it is; register a lowering for a class of your own")

    def register(lowering: Lowering[M]) -> Lowering[M]:
        _LOWERINGS[module_class] = lowering
        return lowering

    return register


@torch.no_grad()
def lowered(model: BHViT) -> BHViT:
    """Return `model` with registered modules replaced by those they are packed as.

    Its spec then has names of the package only.

    The model itself stays as it was; without registered modules it is what is returned.
    Raises UserError naming the module that cannot be packed.
    """
    check_unchanged(model)
    found = cast("BHViT", _replaced("", model))
    if type(found) is BHViT:
        spec = _packed_spec(found)
        if spec != found.spec:
            found = copy.copy(found)
            found.spec = spec
        check_structure(found)
        return found
    raise UserError(f"the model is of class {type(found).__qualname__}, not BHViT itself: {HOW}")


def _replaced(name: str, module: nn.Module) -> nn.Module:
    seen: set[type[nn.Module]] = set()
    training = module.training
    while type(module) in _LOWERINGS:
        kind = type(module)
        seen.add(kind)
        module = _LOWERINGS[kind](module)
        if not isinstance(module, nn.Module) or type(module) in seen:
            raise UserError(
                f"{name or 'the model'}: the lowering of {kind.__qualname__} must return a module of another class, "
                f"not {type(module).__qualname__}"
            )
        module.train(training)
    children = {
        key: None if child is None else _replaced(f"{name}.{key}" if name else key, child)
        for key, child in module._modules.items()
    }
    if any(child is not module._modules[key] for key, child in children.items()):
        module = copy.copy(module)
        vars(module)["_modules"] = children
    return _without_quantizers(name, module) if type(module) in (QuantLinear, QuantConv2d, Projection) else module


def _without_quantizers(name: str, module: Any) -> nn.Module:
    """Return a layer with what its registered quantisers make of it in their place."""
    quantizers = [part for part in ("weight_quantizer", "activation_quantizer") if module._modules.get(part)]
    if not quantizers:
        return cast("nn.Module", module)
    plain = copy.copy(module)
    vars(plain)["_modules"] = {key: child for key, child in module._modules.items() if key not in quantizers}
    for part in quantizers:
        setattr(plain, part, None)
    if "activation_quantizer" in quantizers and type(module.activation_quantizer) is not Sign:
        kind = type(module.activation_quantizer).__qualname__
        raise UserError(f"{name}.activation_quantizer is of class {kind}, which has no lowering: {HOW}")
    if "weight_quantizer" in quantizers:
        vars(plain)["_parameters"] = {**module._parameters, "weight": _packed_weight(name, module)}
        plain.quant = dataclasses.replace(module.quant, packed=True)
    return cast("nn.Module", plain)


def _packed_weight(name: str, layer: QuantLinear | QuantConv2d) -> nn.Parameter:
    """Return what a layer's quantiser makes of its weights.

    Raises UserError unless a file holds them exactly.
    """
    quantizer = cast("nn.Module", layer.weight_quantizer)
    weight = evaluated(quantizer, layer.weight)
    kind = type(quantizer).__qualname__
    if weight.shape != layer.weight.shape:
        raise UserError(f"{name}: {kind} makes weights of shape {tuple(weight.shape)} of {tuple(layer.weight.shape)}")
    magnitudes = weight.abs().flatten(1)
    if not bool((magnitudes == magnitudes[:, :1]).all()):  # NaN too
        raise UserError(
            f"{name}: a packed file holds one scale an output channel and signs, and {kind} gives other weights "
            "in evaluation mode"
        )
    return nn.Parameter(weight, requires_grad=False)


def _packed_spec(model: BHViT) -> ModelSpec:
    """Return the spec of a model whose registered modules were replaced."""
    stages = tuple(_packed_stage(stage, model, index) for index, stage in enumerate(model.spec.stages))
    quantizers = {
        f"{name}.quantizer": type(module.quantizer)
        for name, module in model.named_modules()
        if isinstance(module, QuantAttention) and not isinstance(module.quantizer, nn.Identity)
    }
    attention: Any = next((_QUANTIZERS[kind] for kind in quantizers.values() if kind in _QUANTIZERS), None)
    if attention is None and model.spec.attention in ATTENTION_QUANTIZERS:
        for name, kind in quantizers.items():
            raise UserError(f"{name} is of class {kind.__qualname__}, which has no lowering: {HOW}")
        attention = "decomposition"
    activation = "rprelu" if model.spec.activation in ACTIVATIONS else model.spec.activation
    return dataclasses.replace(
        model.spec,
        stages=stages,
        attention=attention or model.spec.attention,
        activation=activation,
        weight_quantizer="sign",
        activation_quantizer="sign",
    )


def _packed_stage(stage: StageSpec, model: BHViT, index: int) -> StageSpec:
    try:
        mixer = model.get_submodule(f"stages.{index}.0.mixer")
    except AttributeError:
        return stage  # `check_structure` names what is there instead
    names = [name for name, kind in TokenMixer.by_name.items() if kind is type(mixer)]
    if not names or not isinstance(mixer, TokenMixer):
        raise UserError(f"stages.{index}.0.mixer is of class {type(mixer).__qualname__}, which has no lowering: {HOW}")
    changes = {"mixer": names[0], **mixer.stage_fields()}
    if changes.get("window") == model.spec.window(index):
        del changes["window"]  # the spec may leave the choice to the grid
    return dataclasses.replace(stage, **changes)
