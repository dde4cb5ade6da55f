"""The Triton kernels of a training step compute what the layers say: in float64, by Triton's interpreter on a CPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

if find_spec("triton") is None:
    pytest.skip("this PyTorch comes without triton", allow_module_level=True)

from bhvit.models import BHViT, batch_statistics, create_model
from bhvit.models.blocks import Mlp
from bhvit.models.fused import conditions, gpu, triton_calls, triton_check
from bhvit.models.fused import kernels as native
from bhvit.models.fused.triton_check import check
from bhvit.models.quant_config import QuantConfig
from bhvit.spec.mixers import Mixer
from bhvit.spec.model import StageSpec
from helpers.randomise import randomise

MODELS: list[Any] = [
    ("conv", {}),
    ("attention", {"norm": "layer"}),
    pytest.param("attention", {}, marks=pytest.mark.long),
    pytest.param("pooled_attention", {"branches": "pool", "centre_conv_weights": False}, marks=pytest.mark.long),
]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused layers take Triton's kernels for tensors on a CPU."""
    monkeypatch.setattr(conditions, "takes_triton", lambda x: True)
    monkeypatch.setattr(gpu, "is_used", lambda x: True)
    monkeypatch.setattr(triton_calls, "PROGRAMS", 2)  # so that each has several blocks of rows


def _model(mixer: Mixer, **settings: Any) -> BHViT:
    pooled: dict[str, Any] = {"key_pool": 2} if mixer == "pooled_attention" else {}
    first = StageSpec(depth=1, channels=64, hidden=128, mixer=mixer, heads=2, **pooled)
    second = StageSpec(depth=1, channels=128, hidden=128, mixer=mixer, heads=2)
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=5, img_size=16, stages=(first, second), **settings)
    randomise(model)
    return model.double().train()


def _step(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Logits, gradients and buffers of a step."""
    model.zero_grad()
    logits = model(images)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **found, **dict(model.named_buffers())}


@pytest.mark.parametrize(("mixer", "settings"), MODELS, ids=str)
def test_a_step_computes_what_the_layers_say(
    mixer: Mixer, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(native, "KERNELS", {})
    expected = _step(_model(mixer, **settings), images)
    request.getfixturevalue("triton")
    launched: list[int] = []
    launch = triton_calls.launch
    monkeypatch.setattr(
        triton_calls, "launch", lambda kernel, *given, **named: launched.append(1) or launch(kernel, *given, **named)
    )
    found = _step(_model(mixer, **settings), images)
    assert len(launched) > 20
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Gradients of biases before a batch norm are nothing but rounding.
        scale = value.abs().max().clamp(min=1e-5) if value.is_floating_point() else 1
        torch.testing.assert_close(
            found[name] / scale, value / scale, rtol=1e-9, atol=1e-9, msg=f"{{}} of {name}".format
        )


def test_expansions_that_are_no_power_of_two_take_other_kernels(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        layer = Mlp(96, 288, QuantConfig.of(create_model("bhvit_nano").spec, 0)).double()
        randomise(layer)
        return layer.train()

    n = torch.randn(4, 3, 3, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(native, "KERNELS", {})
    expected = _step(model(), n)
    request.getfixturevalue("triton")
    found = _step(model(), n)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=f"{{}} of {name}".format)


def test_the_check_that_a_run_begins_with_passes(triton: None) -> None:
    check(torch.device("cpu"))


def test_a_kernel_that_answers_wrongly_is_found(triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    right = triton_calls.cross
    monkeypatch.setattr(triton_calls, "cross", lambda *operands: right(*operands) * 1.01)
    with pytest.raises(RuntimeError, match="the kernel cross differs from PyTorch"):
        check(torch.device("cpu"))


def test_where_kernels_fail_in_another_process_none_uses_them(triton: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(triton_check, "least_over_processes", torch.zeros_like)
    monkeypatch.setattr(triton_check, "_check_all", lambda device: seen.append(batch_statistics.processes()))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="do not work in another process"):
        check(torch.device("cpu"))
    assert seen == [1]  # nothing was exchanged that one which fails would not
