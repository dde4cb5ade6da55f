"""What training minimises: (1 - d) · labels + d · teacher + r · regularisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..models import regularisation_loss
from .config import TrainConfig


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy of the student against the teacher's softmax; both (B, classes). A scalar."""
    return F.cross_entropy(logits, teacher_logits.softmax(dim=1))


def total_loss(
    config: TrainConfig, model: nn.Module, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None
) -> Tensor:
    """The loss of a batch in float32: logits (B, classes), labels (B,). A scalar."""
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    if teacher_logits is not None:
        share = config.distillation
        loss = (1 - share) * loss + share * distillation_loss(logits, teacher_logits.float())
    if config.regularisation:
        loss = loss + config.regularisation * regularisation_loss(model)
    return loss
