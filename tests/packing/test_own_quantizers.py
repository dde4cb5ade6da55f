"""Registered quantisers of weights and of activations train, keep in checkpoints, pack and run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bhvit.errors import UserError
from bhvit.models import (
    create_model,
    register_activation_quantizer,
    register_weight_quantizer,
)
from bhvit.models.layers import QuantConv2d, QuantLinear
from bhvit.models.mixers import Projection
from bhvit.models.quantizers import Sign
from bhvit.packing import lowering, packed_model, register_lowering
from bhvit.spec.model import ModelSpec
from bhvit.train.losses import oscillation_loss
from helpers.randomise import randomise
from helpers.registered import check_trains_keeps_packs_and_runs, forget_all


class LearnedScale(nn.Module):
    """A learned scale of each channel times signs, gradients straight through; random signs flip in training."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((outputs,), 0.1))

    def forward(self, weight: Tensor) -> Tensor:
        signs = torch.where(weight > 0, 1.0, -1.0)  # sign(0) = -1, other than the package's
        if self.training:
            signs = torch.where(torch.rand_like(signs) < 0.01, -signs, signs)
        signs = weight + (signs - weight).detach()
        return signs * self.scale.view(-1, *[1] * (weight.ndim - 1))


class Ternary(LearnedScale):
    """Zeros as well, which no packed file holds."""

    def forward(self, weight: Tensor) -> Tensor:
        return super().forward(weight) * (weight.abs() > 0.05)


class Steep(nn.Module):
    """Signs whose gradient is that of tanh."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.tanh(self.gain * x)
        return soft + (torch.where(x >= 0, 1.0, -1.0) - soft).detach()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_weight_quantizer("learned_scale")(LearnedScale)
    register_weight_quantizer("ternary")(Ternary)
    register_activation_quantizer("steep")(Steep)
    register_lowering(Steep)(lambda module: Sign())
    yield
    forget_all()


CASES: list[dict[str, Any]] = [
    {"weight_quantizer": "learned_scale"},
    {"activation_quantizer": "steep"},
    {"weight_quantizer": "learned_scale", "activation_quantizer": "steep", "norm": "layer"},
    {"weight_quantizer": "learned_scale", "activation_quantizer": "steep", "mixer": "pooled_attention"},
    {"weight_quantizer": "learned_scale", "stages.1.weight_bits": 32, "stages.0.activation_bits": 32},
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda case: ",".join(case))
def test_registered_quantisers_train_keep_pack_and_run(overrides: dict[str, Any], tmp_path: Path) -> None:
    check_trains_keeps_packs_and_runs(overrides, tmp_path)


def test_every_binary_layer_calls_its_quantisers() -> None:
    model = create_model("bhvit_nano", num_classes=5, weight_quantizer="learned_scale", activation_quantizer="steep")
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, LearnedScale | Steep):
            module.register_forward_hook(
                lambda part, inputs, output, name=name: calls.update({name: calls.get(name, 0) + 1})
            )
    model.train()(torch.randn(2, 3, 32, 32))
    layers = [name for name, module in model.named_modules() if isinstance(module, QuantLinear | QuantConv2d)]
    attention = [name for name, module in model.named_modules() if isinstance(module, Projection)]
    expected = {f"{name}.{part}_quantizer" for name in layers for part in ("weight", "activation")}
    expected |= {f"{name}.activation_quantizer" for name in attention}
    assert calls == dict.fromkeys(expected, 1)


def test_a_registered_quantiser_that_does_what_the_package_does_trains_and_packs_to_the_same() -> None:
    register_weight_quantizer("same")(_Same)
    plain = create_model("bhvit_nano", num_classes=3, centre_conv_weights=False)
    model = create_model("bhvit_nano", num_classes=3, weight_quantizer="same", activation_quantizer="steep")
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(".gain") for name in missing)
    ours, expected = packed_model(model.eval()), packed_model(plain.eval())
    assert ours.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(ours.tensors[name], tensor, err_msg=name)


class _Same(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.abs().mean(dim=tuple(range(1, weight.ndim)), keepdim=True)
        centred = weight - weight.mean(dim=1, keepdim=True) if weight.ndim == 2 else weight
        return torch.where(centred >= 0, scale, -scale)


def test_packing_refuses_by_name_what_a_file_cannot_hold() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3, weight_quantizer="ternary"))
    with pytest.raises(UserError, match=r"^stages\.0\.0\.mixer\.convs\.0: .*one scale an output channel.* Ternary"):
        packed_model(model)
    lowering._LOWERINGS.clear()
    model = randomise(create_model("bhvit_nano", num_classes=3, activation_quantizer="steep"))
    with pytest.raises(UserError, match=r"convs\.0\.activation_quantizer is of class Steep, which has no lowering"):
        packed_model(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_quantizer": "sing"}, r"weight_quantizer must be .*sign.*not 'sing'; .*register_weight_quantizer"),
        ({"activation_quantizer": 3}, r"activation_quantizer must be .*register_activation_quantizer"),
        ({"weight_quantizer": "ternary", "weight_bits": 32}, "weight_quantizer has no effect: no stage has weight"),
        ({"activation_quantizer": "steep", "activation_bits": 32}, "activation_quantizer has no effect: no stage"),
        ({"weight_quantizer": "ternary", "recu": True}, "recu has no effect: weight_quantizer ternary decides"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model("bhvit_nano", **settings)


def test_dampening_knows_the_packages_quantiser_alone() -> None:
    model = create_model("bhvit_nano", weight_quantizer="ternary")
    with pytest.raises(UserError, match=r"not stages\.0\.0\.mixer\.convs\.0's: set dampening=0"):
        oscillation_loss(model)


def test_a_spec_without_registered_quantisers_is_written_as_before() -> None:
    spec = create_model("bhvit_nano").spec
    assert "quantizer" not in spec.to_json()
    own = create_model("bhvit_nano", weight_quantizer="ternary").spec
    assert ModelSpec.from_json(own.to_json()) == own
    assert own.registered == ("weight_quantizer ternary",)
