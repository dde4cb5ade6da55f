from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bhvit.errors import UserError
from bhvit.format.arithmetic import TAPS
from bhvit.format.program import program
from bhvit.image import Preprocess
from bhvit.models import create_model, list_models, load_checkpoint, regularisation_loss, save_checkpoint, trace
from bhvit.models.layers import QuantConv2d, QuantLinear, ShiftBranches
from bhvit.models.quant_config import QuantConfig
from helpers.randomise import randomise


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [32, (64, 96)])
def test_every_model_trains_and_evaluates_at_unusual_sizes(name: str, size: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, img_size=size).train()
    images = torch.randn(2, 3, *model.spec.img_size)
    loss = F.cross_entropy(model(images), torch.tensor([0, 4]))
    (loss + regularisation_loss(model)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.eval()(images).shape == (2, 5)


@pytest.mark.parametrize("name", ["bhvit_tiny", "bhvit_small"])
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    count = sum(parameter.numel() for parameter in create_model(name).parameters())
    assert round(count / 1e6, 2) == {"bhvit_tiny": 13.78, "bhvit_small": 22.65}[name]


def test_images_of_another_size_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"takes images of shape \(batch, 3, 32, 32\), not \(1, 3, 64, 64\)"):
        create_model("bhvit_nano")(torch.zeros(1, 3, 64, 64))


def test_shift_branches_are_the_sum_of_means_and_channel_shifts() -> None:
    branches = ShiftBranches(8, (3, 5), "shift").double()
    with torch.no_grad():
        for parameter in branches.parameters():
            parameter.normal_()
    for height, width in [(1, 1), (2, 1), (2, 3), (5, 4), (7, 9)]:
        n = torch.randn(2, height, width, 8, dtype=torch.float64)
        expected = torch.zeros_like(n)
        for w in (3, 5):
            offsets = range(-(w // 2), w // 2 + 1)
            parts = {
                "h": sum(n.roll(o, 1) for o in offsets) / w,
                "w": sum(n.roll(o, 2) for o in offsets) / w,
                "c": torch.cat(
                    [
                        n[..., :2].roll(w // 2, 1),
                        n[..., 2:4].roll(-(w // 2), 1),
                        n[..., 4:6].roll(w // 2, 2),
                        n[..., 6:].roll(-(w // 2), 2),
                    ],
                    dim=-1,
                ),
            }
            for kind, part in parts.items():
                expected += branches.scales[f"{kind}{w}"](part)
        torch.testing.assert_close(branches(torch.ones_like(n), n), 1 + expected)
    assert len(branches.taps()[0]) == len(TAPS)


def test_a_tap_outside_the_grid_adds_nothing() -> None:
    conv = QuantConv2d(64, 64, 3, QuantConfig(), padding=5, dilation=5, groups=4)
    x = torch.randn(1, 4, 4, 64)
    centre = conv.weight[:, :, 1:2, 1:2]
    weight = conv.weight - conv.weight.mean(dim=(1, 2, 3), keepdim=True)
    scale = conv.weight.abs().mean(dim=(1, 2, 3))
    signs = torch.where(x >= 0, 1.0, -1.0).permute(0, 3, 1, 2)
    bits = torch.where(weight[:, :, 1:2, 1:2] >= 0, 1.0, -1.0)
    assert centre.shape == bits.shape
    # On a 4x4 grid every tap but the centre of a dilation-5 kernel lies outside.
    expected = F.conv2d(signs, bits, groups=4) * scale.view(-1, 1, 1) + conv.bias.view(-1, 1, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(conv(x).permute(0, 3, 1, 2), expected)


def test_the_regularisation_loss_covers_exactly_the_layers_it_should() -> None:
    model = create_model("bhvit_tiny", img_size=32)
    spec = model.spec
    layers = [m for m in model.modules() if isinstance(m, QuantLinear | QuantConv2d)]
    with torch.no_grad():
        for module in layers:
            module.weight.fill_(1.0)
        assert regularisation_loss(model).item() == 0
        for downsample in model.downsamples:
            downsample.conv.weight.fill_(9.0)  # type: ignore[union-attr, operator]
        assert regularisation_loss(model).item() == 0
        # 3 convolutions and 2 MLP layers a conv block; q, k, v, output and 2 MLP layers an attention block
        count = 5 * (spec.stages[0].depth + spec.stages[1].depth) + 6 * (spec.stages[2].depth + spec.stages[3].depth)
        assert len(layers) == count + len(model.downsamples)
        model.stages[2][0].mixer.attention.query.linear.weight.fill_(-3.0)  # type: ignore[index]
        torch.testing.assert_close(regularisation_loss(model).item(), 2 / count)


def test_trace_names_the_ops_of_the_program() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    images = torch.randn(2, 3, 32, 32)
    seen = trace(model, images)
    ops = program(model.spec)
    assert list(seen) == [op.name for op in ops]
    for op in ops[:-1]:
        assert tuple(seen[op.name].shape) == (2, *op.output())
    torch.testing.assert_close(seen["head"], model(images))


def test_checkpoints_round_trip_weights_names_and_preprocessing(tmp_path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    model.class_names = ("cat", "dog", "naïve ✓")
    model.preprocess = Preprocess(size=(32, 32), channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    save_checkpoint(model, tmp_path / "m.safetensors")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert (loaded.spec, loaded.class_names, loaded.preprocess) == (model.spec, model.class_names, model.preprocess)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    save_checkpoint(model, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_a_checkpoint_cut_short_is_refused(tmp_path, cut: int) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(create_model("bhvit_nano"), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_checkpoint(path)


def test_absent_and_foreign_checkpoints_are_refused(tmp_path) -> None:
    import safetensors.torch

    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of bhvit"):
        load_checkpoint(tmp_path / "other.safetensors")


@pytest.mark.parametrize("text", ["[", "3", "{}", '{"version": "9"}', '{"version": "1"}'])
def test_a_checkpoint_with_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"bhvit-checkpoint": text})
    with pytest.raises(UserError, match=r"damaged|has version"):
        load_checkpoint(tmp_path / "m.safetensors")
