"""A whole model under `torch.compile` with its own compiler, in training and evaluation."""

from __future__ import annotations

import copy

import pytest
import torch

import bhvit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def test_a_whole_model_trains_and_evaluates_compiled_for_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled layers are never fused, and fused ones round differently, which flips signs.
    monkeypatch.setattr("bhvit.models.fused.kernels.KERNELS", {})
    torch.manual_seed(0)
    model = bhvit.create_model("bhvit_nano", num_classes=5, img_size=32).train()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model)
    for batch in (4, 4, 3):
        images, weights = torch.randn(batch, 3, 32, 32), torch.randn(batch, 5)
        losses = []
        for one in (compiled, plain):
            losses.append((one(images) * weights).sum())
            losses[-1].backward()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        cosine = torch.nn.functional.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
        assert cosine > 0.99, name
    model.eval()
    plain.eval()
    with torch.no_grad():
        for batch in (2, 6):
            images = torch.randn(batch, 3, 32, 32)
            torch.testing.assert_close(compiled(images), plain(images), rtol=1e-3, atol=1e-3)
