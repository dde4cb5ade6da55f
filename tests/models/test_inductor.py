"""A whole model under `torch.compile` with its own compiler, in training and evaluation.

Inductor rounds differently from PyTorch. In float32 a value near a threshold may then get the other sign, and one sign
changes gradients by as much as they are: noise of 1e-5 on the images of an uncompiled model does the same. In float64
no value of these models lies so near, so outputs and gradients must agree to rounding.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bhvit.models import BHViT, model_spec
from bhvit.spec.model import ModelSpec, StageSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

SPEC = ModelSpec(
    name="both mixers",
    img_size=(32, 32),
    patch=4,
    num_classes=5,
    stages=(
        StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),
        StageSpec(depth=1, channels=128, hidden=128, mixer="attention", heads=2, window=(4, 4)),
    ),
)


def step(model: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs of a batch, and the gradient of each parameter."""
    model.zero_grad()
    outputs = model(images)
    (outputs * weights).sum().backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradients[name.removeprefix("_orig_mod.")] = parameter.grad.clone()
    return outputs.detach(), gradients


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest difference of gradients, as a share of the largest gradient."""
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs) / largest


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled layers are never fused, and fused ones round differently.
    monkeypatch.setattr("bhvit.models.fused.kernels.KERNELS", {})


def batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 32, 32, dtype=torch.float64), torch.randn(size, 5, dtype=torch.float64)


@pytest.mark.parametrize("spec", [SPEC, model_spec("bhvit_nano", num_classes=5, img_size=32)], ids=lambda s: s.name)
def test_in_float64_gradients_agree_to_rounding(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model = BHViT(spec).train().double()
    plain = copy.deepcopy(model)
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    for size in (4, 4, 3):  # the first one sets quantisers; the last one is of another size
        images, weights = batch(size)
        (outputs, gradients), (expected, theirs) = step(compiled, images, weights), step(plain, images, weights)
        torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
        assert distance(gradients, theirs) < 1e-9
        for (name, ours), other in zip(compiled.named_buffers(), plain.buffers(), strict=True):
            assert torch.allclose(ours, other, rtol=1e-12, atol=1e-12), name
    compiled.eval()
    plain.eval()
    with torch.no_grad():
        for size in (2, 6):
            images, _ = batch(size)
            torch.testing.assert_close(compiled(images), plain(images), rtol=1e-12, atol=1e-12)
