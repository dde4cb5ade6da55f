"""LayerCAM (Jiang et al., TIP 2021): which tokens a class's score depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .network import BHViT
from .segmentation import SegmentationHead


def layercam(model: BHViT, images: Tensor, labels: Tensor, stage: int = -1) -> Tensor:
    """Return maps (B, H, W), 0 to 1, of what the logits of `labels` depend on.

    images: normalised, (B, C, H, W). stage: the one whose last tokens count, from 0, or from the end as -1. A map is
    the sum over channels of the tokens, each weighted by its own gradient where that is positive (equation 5); a
    negative sum is 0. Signs pass gradients as in training. The model must be in evaluation mode and is left as it was.
    Raises UserError for a segmentation, and for a stage or a label that the model does not have.
    """
    if isinstance(model.head, SegmentationHead):
        raise UserError("LayerCAM explains classifiers; the model is a segmentation")
    stages = len(model.stages)
    if not -stages <= stage < stages:
        raise UserError(f"the model has stages 0 to {stages - 1}, not {stage}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.num_classes:
        raise UserError(f"labels must be 0 to {model.num_classes - 1}, not {sorted(set(labels.tolist()))}")
    seen: list[Tensor] = []
    keep: Callable[..., None] = lambda module, inputs, output: seen.append(output)  # noqa: E731
    handle = model.stages[stage].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(images)
            scores = logits.gather(1, labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(scores, seen[0])
    finally:
        handle.remove()
    maps = (seen[0].detach() * gradient.clamp(min=0)).sum(dim=3).clamp(min=0)
    maps = F.interpolate(maps[:, None], size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    result: Tensor = maps / maps.flatten(1).amax(dim=1).clamp(min=1e-30)[:, None, None]
    return result
