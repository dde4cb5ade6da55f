"""Packing refuses by name what it would otherwise drop: foreign modules, hooks, parametrisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.utils import parametrize, prune

from bhvit.errors import UserError
from bhvit.models import BHViT, create_model
from bhvit.models.blocks import Block, Mlp
from bhvit.models.layers import BatchNorm, LayerScale, LearnableBias, QuantLinear, RPReLU
from bhvit.models.mixers import PoolMixer, WindowAttention
from bhvit.packing import packed_model
from helpers.randomise import randomise


class Mine(RPReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def model() -> Any:
    return randomise(create_model("bhvit_nano", num_classes=3))


def subclass(base: type[nn.Module]) -> Callable[[nn.Module], None]:
    """Turn a module into one of a subclass that computes something else."""

    def change(module: nn.Module) -> None:
        module.__class__ = type("Mine", (base,), {"forward": lambda self, *args: 2 * base.forward(self, *args)})

    return change


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("stages.0.0.mlp.activation1", RPReLU),
        ("stages.0.1.mixer.activations.2", RPReLU),
        ("stages.1.0.mixer.attention.query.linear", QuantLinear),
        ("stages.1.0.mixer.output.scale", LayerScale),
        ("stages.1.1.mixer.attention.key.threshold", LearnableBias),
        ("stages.2.0.mixer", WindowAttention),
        ("stages.2.0.mlp", Mlp),
        ("stages.2.1", Block),
        ("downsamples.1.norm", BatchNorm),
        ("stem.conv", nn.Conv2d),
        ("stem.activation", nn.GELU),
        ("head.linear", nn.Linear),
    ],
)
def test_a_subclass_is_refused_by_name(path: str, base: type[nn.Module]) -> None:
    changed = model()
    subclass(base)(changed.get_submodule(path))
    with pytest.raises(UserError, match=rf"^{path} is of class Mine, .*register_lowering"):
        packed_model(changed)


def test_a_subclass_of_the_model_is_refused() -> None:
    changed = model()
    subclass(BHViT)(changed)
    with pytest.raises(UserError, match="the model is of class Mine, not BHViT itself"):
        packed_model(changed)


def test_a_subclass_of_the_same_name_is_told_apart() -> None:
    changed = model()
    changed.stages[0][0].mlp.activation2.__class__ = type("RPReLU", (RPReLU,), {"__module__": "mine"})
    with pytest.raises(UserError, match=r"activation2 is of class mine\.RPReLU, not bhvit\.models\.layers\.RPReLU"):
        packed_model(changed)


def other_head(model: Any) -> None:
    model.head.linear = nn.Sequential(nn.Linear(256, 8), nn.Linear(8, 3))


def mixed_stage(model: Any) -> None:
    model.stages[0][1].mixer = PoolMixer(64, model.stages[0][1].mlp.linear1.quant)


def second_hidden(model: Any) -> None:
    model.stages[0][0].mlp.linear1.weight = nn.Parameter(torch.zeros(128, 64))


CHANGES: list[tuple[str, Callable[[Any], Any], str]] = [
    (
        "hardswish",
        lambda m: setattr(m.stages[0][0].mlp, "activation1", nn.Hardswish()),
        "is of class Hardswish",
    ),
    ("classifier", other_head, r"head\.linear is of class Sequential, not Linear"),
    ("mixers of a stage differ", mixed_stage, r"stages\.0\.1\.mixer is of class PoolMixer, not ConvMixer"),
    ("shape", second_hidden, r"linear1 has one of shape \(128, 64\) as its weight, .* one of shape \(256, 64\)"),
    ("no bias", lambda m: setattr(m.head.linear, "bias", None), r"head\.linear has none as its bias"),
    ("another GELU", lambda m: setattr(m.stem.activation, "approximate", "tanh"), "has approximate 'tanh', but"),
    ("another eps", lambda m: setattr(m.stages[1][0].mixer.token_norm, "eps", 1e-3), r"has eps 0\.001, but"),
    ("stride", lambda m: setattr(m.stem.conv, "stride", (2, 2)), r"has stride \(2, 2\), but"),
    ("expansion", lambda m: setattr(m.stages[0][0].mlp, "expansion", 2), "has expansion 2, but"),
    ("dilation", lambda m: setattr(m.stages[0][0].mixer.convs[1], "dilation", (2, 2)), "has dilation"),
    ("one block more", lambda m: m.stages[0].append(nn.Identity()), r"stages\.0 has a part '2' that its spec does not"),
    ("an unused part", lambda m: setattr(m, "auxiliary", nn.Linear(2, 2)), "the model has a part 'auxiliary'"),
    ("no shifts", lambda m: setattr(m.stages[0][0], "shift", None), r"stages\.0\.0\.shift is missing"),
    (
        "a foreign block",
        lambda m: m.stages.__setitem__(0, nn.Identity()),
        r"is of class Identity, not Seq",
    ),
    ("no norm", lambda m: setattr(m.head, "norm", nn.Identity()), r"head\.norm is of class Identity, not BatchNorm"),
    ("no statistics", lambda m: setattr(m.head.norm, "running_mean", None), r"head\.norm has none as its running_mean"),
    (
        "hook",
        lambda m: m.stages[1][0].mlp.register_forward_hook(lambda *a: None),
        r"stages\.1\.0\.mlp has forward hooks",
    ),
    ("hook before", lambda m: m.register_forward_pre_hook(lambda *a: None), "the model has forward hooks"),
    (
        "pruning",
        lambda m: prune.l1_unstructured(m.head.linear, "weight", 0.5),
        r"head\.linear has forward hooks",
    ),
    (
        "parametrisation",
        lambda m: parametrize.register_parametrization(m.head.linear, "weight", nn.Identity()),
        r"head\.linear has parametrisations, .*remove_parametrizations",
    ),
    (
        "another forward",
        lambda m: setattr(m.stages[0][0], "forward", lambda x: x),
        r"stages\.0\.0 was given another forward",
    ),
    ("no numbers", lambda m: m.to("meta"), "holds no numbers: load weights"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
def test_a_change_that_no_packed_file_holds_is_refused_by_name(change: Callable[[Any], Any], message: str) -> None:
    changed = model()
    change(changed)
    with pytest.raises(UserError, match=message):
        packed_model(changed)


def test_hooks_of_all_modules_are_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(UserError, match="hooks are registered for all modules"):
            packed_model(model())
    finally:
        handle.remove()
    packed_model(model())


def test_what_evaluation_does_not_read_may_differ() -> None:
    changed = model()
    changed.stages[0][0].drop_path = DropPath(0.5)
    changed.head.norm.momentum = 0.5
    changed.register_full_backward_hook(lambda *_: None)
    changed.eval()
    expected, packed = packed_model(model()), packed_model(changed)
    assert all((packed.tensors[name] == tensor).all() for name, tensor in expected.tensors.items())


def test_checking_draws_no_random_numbers() -> None:
    whole = model()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    packed_model(whole)
    assert torch.equal(torch.get_rng_state(), before)
