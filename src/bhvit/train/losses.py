"""What training minimises: l · labels + d · teacher + r · regularisation + o · oscillation.

With a teacher l is `label_weight`, by default 1 - d; without one it is 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..models import regularisation_loss
from ..models.binary import binary_layers, latent_weight
from ..models.quantizers import weight_scale
from .settings import LossSettings


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy of the student against the teacher's softmax; both (B, classes). A scalar."""
    return F.cross_entropy(logits, teacher_logits.softmax(dim=1))


def oscillation_loss(model: nn.Module) -> Tensor:
    """Oscillation dampening (Nagel et al., ICML 2022) for two values: the sum over latent weights w, less their mean,
    of (s sign(w) - clip(w, -s, s))², s the scale of their channel. A scalar; the binary value has no gradient.

    It draws weights that are about to change sign to the value they have. Raises UserError without binary weights, and
    for weights with a registered quantiser.
    """
    terms = []
    for name, layer in binary_layers(model):
        if layer.weight_quantizer is not None:
            raise UserError(f"dampening knows the package's quantiser of weights alone, not {name}'s: set dampening=0")
        latent, scale = latent_weight(layer), weight_scale(layer.weight)
        binary = torch.where(latent >= 0, scale, -scale).detach()
        terms.append((binary - torch.clamp(latent, -scale, scale)).square().sum())
    if not terms:
        raise UserError("no layer has binary weights, so there is nothing to dampen: set dampening=0")
    return torch.stack(terms).sum()


def total_loss(
    settings: LossSettings,
    model: nn.Module,
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None,
    progress: float = 1.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The loss of a batch in float32: logits (B, classes); labels (B,), or mixed ones (B, classes). A scalar.

    `progress` is the part of the phase that is over, 0 to 1, which dampening grows with. `class_weights` (classes,)
    weigh the labels' part of the loss by the class of each image.
    """
    logits = logits.float()
    # Mixed labels have been smoothed as they were mixed.
    smoothing = settings.label_smoothing if labels.ndim == 1 else 0.0
    loss = F.cross_entropy(logits, labels, class_weights, label_smoothing=smoothing)
    if teacher_logits is not None:
        share = settings.distillation
        weight = 1 - share if settings.label_weight is None else settings.label_weight
        loss = weight * loss + share * distillation_loss(logits, teacher_logits.float())
    if settings.regularisation:
        loss = loss + settings.regularisation * regularisation_loss(model)
    if settings.dampening:
        loss = loss + settings.dampening * (1 - math.cos(math.pi * progress)) / 2 * oscillation_loss(model)
    return loss


def class_weights(labels: npt.NDArray[np.int64], classes: int, balance: float) -> Tensor:
    """Weights (classes,), float32, of classes with counts n_c among `labels`: n_c^-balance, of mean 1 over the images.

    With `balance` 1 all classes count alike, with 0 all images. A class without images gets 0.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0.0)
    return torch.from_numpy(weights * (counts.sum() / (weights * counts).sum())).float()


def check_loss_terms(settings: LossSettings, model: nn.Module) -> None:
    """Raises UserError if a part of the loss has nothing to act on in `model`."""
    if settings.regularisation:
        regularisation_loss(model)
    if settings.dampening:
        oscillation_loss(model)
