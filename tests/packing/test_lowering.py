"""Registered mixers, quantisers and activations train, keep in checkpoints, pack and run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from bhvit.format.program import program
from bhvit.models import (
    BHViT,
    create_model,
    load_checkpoint,
    register_activation,
    register_attention_quantizer,
    register_mixer,
    save_checkpoint,
)
from bhvit.models.attention_quantizers import DecomposedAttention, GroupSuperpositionAttention
from bhvit.models.layers import BatchNorm, QuantLinear, RPReLU
from bhvit.models.mixers import ConvMixer, PoolMixer, WindowAttention
from bhvit.models.quant_config import QuantConfig
from bhvit.models.quantizers import binarize_weight, sign
from bhvit.packing import lowering, pack, packed_model, register_lowering
from bhvit.runtime import reference
from bhvit.spec.model import ModelSpec
from bhvit.spec.registry import REGISTRIES
from helpers.images import class_folders
from helpers.randomise import randomise
from helpers.registered import check_trains_keeps_packs_and_runs, forget_all


class Smooth(nn.Module):
    """A pooling mixer written in another way: a depthwise convolution of equal weights, gain and norm."""

    def __init__(self, spec: ModelSpec, stage: int) -> None:
        super().__init__()
        channels = spec.stages[stage].channels
        self.quant = QuantConfig.of(spec, stage)
        self.norm = BatchNorm(channels)
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, n: Tensor) -> Tensor:
        channels = n.shape[-1]
        kernel = torch.full((channels, 1, 3, 3), 1 / 9)
        y: Tensor = self.norm(F.conv2d(n.permute(0, 3, 1, 2), kernel, padding=1, groups=channels).permute(0, 2, 3, 1))
        return self.gain * y


def lower_smooth(module: Smooth) -> PoolMixer:
    pooling = PoolMixer(len(module.gain), module.quant)
    pooling.load_state_dict({f"norm.{name}": value for name, value in module.norm.state_dict().items()})
    pooling.norm.weight.mul_(module.gain)  # type: ignore[operator]
    pooling.norm.bias.mul_(module.gain)  # type: ignore[operator]
    return pooling


class OpenEnds(DecomposedAttention):
    """Four levels whose gradient passes everywhere."""

    def forward(self, probabilities: Tensor) -> Tensor:
        x = 3 * probabilities / self.step.view(-1, 1, 1) + self.offset.view(-1, 1, 1)
        return (x + (x.round().clamp(0, 3) - x).detach()) * self.step.view(-1, 1, 1)


def lower_open_ends(module: OpenEnds) -> DecomposedAttention:
    plain = DecomposedAttention(len(module.step))
    plain.load_state_dict(module.state_dict())
    return plain


class Leaky(nn.Module):
    """PReLU with one slope for all channels, no shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.slope = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope * x)


def lower_leaky(module: Leaky) -> RPReLU:
    activation = RPReLU(module.channels)
    activation.slope.fill_(module.slope)
    return activation


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Register the modules above for one test."""
    register_mixer("smooth")(Smooth)
    register_attention_quantizer("open_ends")(OpenEnds)
    register_activation("leaky")(Leaky)
    register_lowering(Smooth)(lower_smooth)
    register_lowering(OpenEnds)(lower_open_ends)
    register_lowering(Leaky)(lower_leaky)
    yield
    forget_all()


CASES: list[dict[str, Any]] = [
    {"mixer": "smooth"},
    {"stages.1.mixer": "smooth"},
    {"attention": "open_ends"},
    {"activation": "leaky"},
    {"activation": "leaky", "attention": "open_ends", "stages.0.mixer": "smooth"},
    {"activation": "leaky", "mixer": "pooled_attention", "downsample": "float", "norm": "layer"},
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda case: ",".join(case))
def test_registered_modules_train_keep_pack_and_run(overrides: dict[str, Any], tmp_path: Path) -> None:
    check_trains_keeps_packs_and_runs(overrides, tmp_path)


def test_a_registered_model_packs_into_the_bytes_of_the_one_it_stands_for() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3, attention="open_ends"))
    plain = create_model("bhvit_nano", num_classes=3)
    plain.load_state_dict(model.state_dict())
    assert bhv_file.to_bytes(packed_model(model)) == bhv_file.to_bytes(packed_model(plain.eval()))


def test_packing_leaves_a_registered_model_as_it_was() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3, activation="leaky", mixer="smooth"))
    modules, spec = dict(model.named_modules()), model.spec
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed_model(model)
    assert dict(model.named_modules()) == modules
    assert model.spec == spec
    assert all(torch.equal(values[name], tensor) for name, tensor in model.state_dict().items())


def test_mixers_put_into_a_model_by_hand_pack_as_what_they_are() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    block: Any
    for block in (*model.stages[0].children(), *model.stages[1].children()):
        channels, config = block.mlp.linear2.out_features, QuantConfig.of(model.spec, 0)
        block.mixer = WindowAttention(channels, 1, (2, 4), "gsb", config) if channels == 128 else PoolMixer(64, config)
    with pytest.raises(UserError, match=r"stages\.2\.0.*quantizer is of class Decomposed.*, not Group"):
        packed_model(randomise(model))
    for block in model.stages[2].children():
        block.mixer.attention.quantizer = GroupSuperpositionAttention()
    images = torch.randn(2, 3, 32, 32)
    packed = packed_model(randomise(model), float_storage="float32")
    assert [stage.mixer for stage in packed.spec.stages] == ["pooling", "attention", "attention"]
    assert (packed.spec.stages[1].heads, packed.spec.stages[1].window, packed.spec.attention) == (1, (2, 4), "gsb")
    with torch.inference_mode():
        expected = model(images).numpy()
    logits = reference.run(packed, images.numpy())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_verification_follows_a_registered_model_op_by_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixer: dict[str, Any] = {"stages.0.mixer": "smooth"}
    model = create_model("bhvit_nano", num_classes=2, activation="leaky", attention="open_ends", **mixer)
    save_checkpoint(randomise(model), tmp_path / "m.safetensors")
    pack(model, tmp_path / "m.bhv", class_names=["cat", "dog"], float_storage="float32")
    photos = class_folders(tmp_path / "photos", count=2)
    files = [str(tmp_path / "m.safetensors"), str(tmp_path / "m.bhv")]
    assert main(["verify", *files, "--data", str(photos), "--split", "all", "--trace", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["agreement"], found["native_equals_reference"]) == (True, 1, True)
    assert all(op["explained"] for op in found["flips"])
    assert sum(op["decisions"] for op in found["flips"]) > 10_000


def test_lowerings_hold_for_their_class_alone() -> None:
    lowering._LOWERINGS.clear()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mixer": "smooth"}, r"stages\.0\.0\.mixer is of class Smooth, which has no lowering"),
        ({"attention": "open_ends"}, r"attention\.quantizer is of class OpenEnds, which has no lowering"),
        ({"activation": "leaky"}, r"is of class Leaky, not RPReLU"),
    ]
    for overrides, message in cases:
        with pytest.raises(UserError, match=message):
            packed_model(randomise(create_model("bhvit_nano", num_classes=3, **overrides)))


def test_a_lowering_may_give_a_class_with_another_lowering() -> None:
    class Twice(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.inner = Leaky(channels)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

    register_activation("twice")(Twice)
    register_lowering(Twice)(lambda module: module.inner)
    model = randomise(create_model("bhvit_nano", num_classes=3, activation="twice"))
    assert packed_model(model).spec.activation == "rprelu"


@pytest.mark.parametrize("result", [None, Leaky(64)])
def test_a_lowering_that_gives_nothing_new_is_refused(result: Any) -> None:
    register_lowering(Leaky)(lambda module: result)
    with pytest.raises(UserError, match="the lowering of Leaky must return a module of another class, not"):
        packed_model(randomise(create_model("bhvit_nano", num_classes=3, activation="leaky")))


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: register_mixer("conv"), "mixer 'conv' is the package's own"),
        (lambda: register_attention_quantizer("gsb"), "attention 'gsb' is the package's own"),
        (lambda: register_activation("rprelu"), "activation 'rprelu' is the package's own"),
        (lambda: register_mixer("my mixer"), "a name of letters"),
        (lambda: register_lowering(ConvMixer), "ConvMixer is packed as it is"),
        (lambda: register_lowering(QuantLinear(32, 32, QuantConfig())), "for a class of modules, not for QuantLinear"),  # type: ignore[arg-type]
    ],
)
def test_impossible_registrations_are_refused(register: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        register()


def test_a_name_that_is_not_registered_says_how_to_register_it(tmp_path: Path) -> None:
    model = create_model("bhvit_nano", num_classes=3, mixer="smooth", attention="open_ends", activation="leaky")
    save_checkpoint(model, tmp_path / "m.safetensors")
    for registry in REGISTRIES.values():
        registry._makers.clear()
    with pytest.raises(UserError, match=r"mixer must be .*, not 'smooth'; .*bhvit\.models\.register_mixer"):
        load_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"attention must be .*bhvit\.models\.register_attention_quantizer"):
        create_model("bhvit_nano", attention="open_ends")


def test_a_registered_model_has_a_card_but_no_ops(tmp_path: Path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3, mixer="smooth"))
    model.save_pretrained(tmp_path)
    assert "Parameters" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert BHViT.from_pretrained(tmp_path).spec == model.spec
    with pytest.raises(UserError, match="bhvit_nano uses mixer smooth, which no op computes"):
        program(model.spec)


def test_a_registered_mixer_takes_settings_of_its_stage() -> None:
    settings: dict[str, Any] = {"stages.0.mixer": "smooth", "stages.0.heads": 2}
    heads = create_model("bhvit_nano", num_classes=3, **settings).spec
    assert heads.stages[0].heads == 2


class Straight(QuantLinear):
    """A binary layer whose weights' gradients pass everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        binary = binarize_weight(self.weight)
        return F.linear(sign(x), self.weight + (binary - self.weight).detach())


def test_a_weight_quantiser_put_in_by_hand_trains_and_packs() -> None:
    @register_lowering(Straight)
    def lower(module: Straight) -> QuantLinear:
        plain = QuantLinear(module.in_features, module.out_features, module.quant)
        plain.weight = module.weight
        return plain

    model = randomise(create_model("bhvit_nano", num_classes=3))
    expected = bhv_file.to_bytes(packed_model(model))
    block: Any = model.stages[1]
    layer = block[0].mlp.linear1
    straight = Straight(128, 512, layer.quant)
    straight.load_state_dict(layer.state_dict())
    block[0].mlp.linear1 = straight
    assert bhv_file.to_bytes(packed_model(model.eval())) == expected
    model.train()(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert straight.weight.grad is not None
    assert (straight.weight.grad != 0).float().mean() > 0.99


def test_a_compiled_model_packs() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    expected = bhv_file.to_bytes(packed_model(model))
    for block in model.stages[0]:  # type: ignore[attr-defined]
        block.compile()
    assert bhv_file.to_bytes(packed_model(model)) == expected
