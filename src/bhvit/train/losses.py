"""The training loss, a weighted sum of terms.

l · labels + d · teacher + r · regularisation + o · oscillation.

With a teacher l is `label_weight`, by default 1 - d; without one it is 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.mask_classes import IGNORED
from ..errors import UserError
from ..models import regularisation_loss
from ..models.binary import binary_layers, latent_weight
from ..models.quantizers import weight_scale
from .settings import LossSettings


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross entropy of the student against the teacher's softmax; both (B, classes). A scalar."""
    return F.cross_entropy(logits, teacher_logits.softmax(dim=1))


def oscillation_loss(model: nn.Module) -> Tensor:
    """Oscillation dampening of binary weights (Nagel et al., ICML 2022), a scalar.

    The sum over centred latent weights w of (s sign(w) - clip(w, -s, s))², s the scale of their channel; the binary
    value has no gradient. It draws weights that are about to change sign to the value they have.
    Raises UserError without binary weights, and for weights with a registered quantiser.
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
    dampening: float | Tensor = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of a batch in float32, a scalar.

    logits: (B, classes). labels: (B,), or mixed ones (B, classes).

    Of masks, logits (B, classes, H, W) and labels (B, H, W), the mean over all pixels with a label, and the terms that
    overlap whole regions. `dampening` is the weight of that term at this step, where the settings have it.
    `class_weights` (classes,) weigh the labels' part of the loss by the class of each image or pixel.
    """
    logits = logits.float()
    # Mixed labels have been smoothed as they were mixed.
    smoothing = settings.label_smoothing if labels.ndim == 1 else 0.0
    if logits.ndim == 4:
        loss = mask_loss(settings, logits, labels, class_weights)
    else:
        loss = F.cross_entropy(logits, labels, class_weights, label_smoothing=smoothing)
    if teacher_logits is not None:
        share = settings.distillation
        weight = 1 - share if settings.label_weight is None else settings.label_weight
        loss = weight * loss + share * distillation_loss(logits, teacher_logits.float())
    if settings.regularisation:
        loss = loss + settings.regularisation * regularisation_loss(model)
    if settings.dampening:
        loss = loss + dampening * oscillation_loss(model)
    return loss


def class_weights(labels: npt.NDArray[np.int64], classes: int, balance: float) -> Tensor:
    """`count_weights` of classes by their images, whose labels are (N,)."""
    return count_weights(np.bincount(labels, minlength=classes), balance)


def count_weights(counts: npt.NDArray[np.int64], balance: float) -> Tensor:
    """Return float32 weights (classes,) proportional to count^-balance.

    Their mean over all images or pixels is 1.

    With `balance` 1 all classes count alike, with 0 all images. A class without any gets 0.
    """
    numbers = counts.astype(np.float64)
    weights = np.where(numbers > 0, np.maximum(numbers, 1) ** -balance, 0.0)
    return torch.from_numpy(weights * (numbers.sum() / (weights * numbers).sum())).float()


def mask_loss(settings: LossSettings, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of the pixels with a label, and the dice and Lovász terms.

    A scalar; 0 where no pixel has one.
    """
    smoothing = settings.label_smoothing
    counted = labels != IGNORED
    if not bool(counted.any()):
        return logits.sum() * 0
    loss = F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORED, label_smoothing=smoothing)
    if not (settings.dice or settings.lovasz):
        return loss
    probabilities = logits.softmax(dim=1).permute(0, 2, 3, 1)[counted]  # (pixels, classes)
    truth = F.one_hot(labels[counted], logits.shape[1]).to(probabilities.dtype)
    present = truth.sum(dim=0) > 0
    if settings.dice:
        overlap, sums = (probabilities * truth).sum(dim=0), (probabilities + truth).sum(dim=0)
        loss = loss + settings.dice * (1 - 2 * overlap[present] / sums[present]).mean()
    if settings.lovasz:
        terms = [_lovasz(truth[:, c], probabilities[:, c]) for c in range(logits.shape[1]) if bool(present[c])]
        loss = loss + settings.lovasz * torch.stack(terms).mean()
    return loss


def _lovasz(truth: Tensor, probabilities: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU of one class (Berman et al., CVPR 2018, algorithm 1): (pixels,) each."""
    errors, order = (truth - probabilities).abs().sort(descending=True)
    truth = truth[order]
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return errors @ steps


def count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the images of a batch that are right, a scalar.

    Of masks, the share of right pixels times the number of images.

    Shapes are those of `total_loss`.
    """
    found = logits.argmax(dim=1)
    if logits.ndim == 4:
        counted = labels != IGNORED
        return (found == labels)[counted].sum() / counted.sum().clamp(min=1) * len(labels)
    return (found == (labels if labels.ndim == 1 else labels.argmax(dim=1))).sum()


def check_loss_terms(settings: LossSettings, model: nn.Module) -> None:
    """Raises UserError if a part of the loss has nothing to act on in `model`."""
    if settings.regularisation:
        regularisation_loss(model)
    if settings.dampening:
        oscillation_loss(model)
