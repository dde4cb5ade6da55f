"""LayerCAM: the map that its paper's equations give, and what has none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bhvit.errors import UserError
from bhvit.models import create_model
from bhvit.models.layercam import layercam
from helpers.randomise import randomise


@pytest.fixture(scope="module")
def model() -> Any:
    return randomise(create_model("bhvit_nano", num_classes=3))


def test_a_map_is_the_tokens_weighted_by_their_positive_gradients(model: Any) -> None:
    images, labels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0])
    found = layercam(model, images, labels, stage=1)
    tokens = model.stages[1](model.downsamples[0](model.stages[0](model.stem(images)))).detach().requires_grad_()
    logits = model.head(model.stages[2](model.downsamples[1](tokens)))
    logits[torch.arange(2), labels].sum().backward()
    maps = (tokens.grad.clamp(min=0) * tokens.detach()).sum(dim=-1).relu()
    maps = F.interpolate(maps[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found, maps / maps.amax(dim=(1, 2), keepdim=True))
    assert found.shape == (2, 32, 32)
    assert torch.equal(found, layercam(model, images, labels, stage=-2))
    assert layercam(model, images[:0], labels[:0]).shape == (0, 32, 32)
    assert all(not module._forward_hooks for module in model.modules())


def test_what_has_no_map_is_refused(model: Any) -> None:
    images = torch.zeros(1, 3, 32, 32)
    for label in (-1, 3):
        with pytest.raises(UserError, match="labels must be 0 to 2"):
            layercam(model, images, torch.tensor([label]))
    with pytest.raises(UserError, match="the model has stages 0 to 2, not 3"):
        layercam(model, images, torch.tensor([0]), stage=3)
    segmentation = create_model("bhvit_nano", num_classes=3, task="segment").eval()
    with pytest.raises(UserError, match="LayerCAM explains classifiers"):
        layercam(segmentation, images, torch.tensor([0]))
