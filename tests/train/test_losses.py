"""The loss, computed again in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bhvit.models import create_model, regularisation_loss
from bhvit.train.losses import total_loss


def cross_entropy(logits, targets):
    shifted = logits - logits.max(1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))).sum(1).mean()


@pytest.mark.parametrize("distillation", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_teacher_and_regularisation_have_their_shares(config, distillation, smoothing):
    rng = np.random.default_rng(0)
    logits, teacher, labels = rng.normal(size=(6, 4)), rng.normal(0, 3, (6, 4)), rng.integers(0, 4, 6)
    model = create_model("bhvit_nano")
    settings = config(distillation=distillation, label_smoothing=smoothing, regularisation=0.1)
    tensors = [torch.tensor(values) for values in (logits, labels, teacher)]
    hard = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    soft = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    expected = (1 - distillation) * cross_entropy(logits, hard) + distillation * cross_entropy(logits, soft)
    expected += 0.1 * regularisation_loss(model).item()
    assert total_loss(settings, model, *tensors).item() == pytest.approx(expected, rel=1e-5)
    alone = cross_entropy(logits, hard) + 0.1 * regularisation_loss(model).item()
    assert total_loss(settings, model, tensors[0], tensors[1], None).item() == pytest.approx(alone, rel=1e-5)
