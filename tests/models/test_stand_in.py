"""The benchmark's stand-in of the published way computes what our models compute, or its times would mean nothing."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from benchmarks.training.stand_in import PublishedWay

import bhvit


def test_the_stand_in_gives_our_loss_and_gradients() -> None:
    torch.manual_seed(0)
    ours = bhvit.create_model("bhvit_tiny", num_classes=10, img_size=64).double().train()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:  # norms, scales, shifts, slopes: nothing is left at zero or one
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = PublishedWay(copy.deepcopy(ours)).train()
    images, labels = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([1, 7])
    losses = []
    for model in (ours, theirs):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-11, atol=1e-11)
    expected = dict(ours.named_parameters())
    for name, parameter in theirs.model.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-8, atol=1e-11, msg=name)
