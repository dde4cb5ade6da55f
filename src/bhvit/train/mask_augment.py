"""Augmentation of images and their masks together, a batch at a time, on any device."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.mask_classes import IGNORED
from ..image import Preprocess
from .augment import Normalizer
from .distributed import BatchShard
from .settings import AugmentSettings


def draw_pairs(settings: AugmentSettings, seed: int, shard: BatchShard) -> dict[str, Tensor]:
    """Mirror images, changes of scale and of colours; see `scaled_pairs`.

    "theta" (B, 2, 3) has the rows of the map from output to input, in units of half an edge, or "mirror" (B,) says
    which images are mirrored; "colours" (3, B) are the factors of brightness, contrast and saturation.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.rand(shard.batch, generator=generator)[shard.rows]

    drawn: dict[str, Tensor] = {}
    mirror = draw() < 0.5 if settings.flip else torch.zeros(len(shard.rows), dtype=torch.bool)
    if settings.augment == "scale-crop":
        scale = torch.exp((2 * draw() - 1) * math.log1p(settings.zoom))
        reach = (1 - 1 / scale).abs()
        across, down = (2 * draw() - 1) * reach, (2 * draw() - 1) * reach
        sign = torch.where(mirror, -1.0, 1.0)
        zero = torch.zeros_like(scale)
        drawn["theta"] = torch.stack(
            [torch.stack([sign / scale, zero, across], dim=1), torch.stack([zero, 1 / scale, down], dim=1)], dim=1
        )
    elif settings.flip:
        drawn["mirror"] = mirror
    if settings.colour:
        drawn["colours"] = torch.stack([1 + settings.colour * (2 * draw() - 1) for _ in range(3)])
    return drawn


def scaled_pairs(
    pixels: Tensor, preprocess: Preprocess, normalize: Normalizer, drawn: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Pixels with masks as last channel, uint8 (B, H, W, C + 1) -> normalised images (B, C, H, W), labels (B, H, W).

    Changed as `draw_pairs` says. Image and mask are scaled together, images bilinearly and masks to the nearest label;
    outside of the image are its mean colour and no label. Colours change after that.
    """
    images, labels = normalize(pixels[..., :-1]), pixels[..., -1].long()
    if "theta" in drawn:
        grid = F.affine_grid(drawn["theta"], list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # One more than the label, so that 0 is outside.
        moved = F.grid_sample((labels + 1)[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()
        labels = torch.where(moved == 0, IGNORED, moved - 1)
    elif "mirror" in drawn:
        flipped = drawn["mirror"][:, None, None]
        labels = torch.where(flipped, labels.flip(2), labels)
        images = torch.where(flipped[:, None], images.flip(3), images)
    if "colours" in drawn:
        brightness, contrast, saturation = drawn["colours"][:, :, None, None, None].unbind()
        images = _recoloured(images, preprocess, brightness, contrast, saturation)
    return images, labels


def _recoloured(
    images: Tensor, preprocess: Preprocess, brightness: Tensor, contrast: Tensor, saturation: Tensor
) -> Tensor:
    """Normalised images (B, C, H, W) with brightness, contrast and saturation multiplied, (B, 1, 1, 1) each."""
    std = torch.tensor(preprocess.std, device=images.device)[:, None, None]
    mean = torch.tensor(preprocess.mean, device=images.device)[:, None, None]
    shades = (images * std + mean) * brightness
    middle = shades.mean(dim=(1, 2, 3), keepdim=True)
    shades = middle + (shades - middle) * contrast
    grey = shades.mean(dim=1, keepdim=True)
    shades = (grey + (shades - grey) * saturation).clamp(0, 1)
    return (shades - mean) / std
