"""Augmentation of whole batches, on any device.

What is drawn at random is a function of a seed and of an image's place in the batch of all processes, of which one
process holds its `BatchShard`. Shapes: B batch, H×W pixels, C channels; pixels are uint8 (B, H, W, C).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..image import Preprocess
from .distributed import BatchShard
from .settings import AugmentSettings


def seed_for(*keys: int) -> int:
    """A seed that is a function of all `keys` and looks unlike that of any others."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


def normalized(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), contiguous: `Preprocess.normalize` on any device."""
    scale = torch.tensor([1 / (255 * std) for std in preprocess.std], device=pixels.device)
    offset = torch.tensor([-mean / std for mean, std in zip(preprocess.mean, preprocess.std)], device=pixels.device)
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.mul_(scale[:, None, None]).add_(offset[:, None, None])


def shifted(pixels: Tensor, settings: AugmentSettings, seed: int, shard: BatchShard | None = None) -> Tensor:
    """The batch with every image moved, and turned and scaled where the settings say so."""
    if settings.rotate == 0 and settings.zoom == 0:
        return moved(pixels, settings.shift, settings.flip, seed, shard)
    return turned(pixels, settings, seed, shard)


def moved(pixels: Tensor, shift: float, flip: bool, seed: int, shard: BatchShard | None = None) -> Tensor:
    """Whole-pixel moves of up to `shift` of an edge, half of the images mirrored if `flip`.

    What comes in at the border repeats it. One gather of uint8 for the whole batch.
    """
    count, height, width, _ = pixels.shape
    shard = shard or BatchShard(count)
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> Tensor:
        return torch.randint(-most, most + 1, (shard.batch, 1), generator=generator)[shard.rows]

    rows = torch.arange(height) + draw(round(shift * height))
    columns = torch.arange(width) + draw(round(shift * width))
    if flip:
        mirror = torch.rand(shard.batch, 1, generator=generator)[shard.rows] < 0.5
        columns = torch.where(mirror, width - 1 - columns, columns)
    rows, columns = rows.clamp_(0, height - 1).to(pixels.device), columns.clamp_(0, width - 1).to(pixels.device)
    batch = torch.arange(count, device=pixels.device)
    return pixels[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def turned(pixels: Tensor, settings: AugmentSettings, seed: int, shard: BatchShard | None = None) -> Tensor:
    """Moves, turns and changes of scale, bilinear; what comes in at the border repeats it."""
    count, height, width, _ = pixels.shape
    shard = shard or BatchShard(count)
    generator = torch.Generator().manual_seed(seed)

    def draw(most: float) -> Tensor:
        return (torch.rand(shard.batch, generator=generator)[shard.rows] * 2 - 1) * most

    angle, scale = torch.deg2rad(draw(settings.rotate)), 1 / (1 + draw(settings.zoom))
    aspect = width / height
    # Rows of the inverse map from output to input, in units of half an edge.
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin() / aspect, draw(2 * settings.shift)], dim=1),
            torch.stack([scale * angle.sin() * aspect, scale * angle.cos(), draw(2 * settings.shift)], dim=1),
        ],
        dim=1,
    )
    if settings.flip:
        mirror = torch.where(torch.rand(shard.batch, generator=generator)[shard.rows] < 0.5, -1.0, 1.0)
        theta[:, :, 0] *= mirror[:, None]
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta.to(pixels.device), list(planes.shape), align_corners=False)
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return planes.round_().to(torch.uint8).permute(0, 2, 3, 1)


def erased(images: Tensor, probability: float, seed: int, shard: BatchShard) -> Tensor:
    """Normalised images (B, C, H, W), changed in place: with `probability` a rectangle becomes the mean colour, 0.

    Random erasing (Zhong et al., AAAI 2020), torchvision's.
    """
    from torchvision.transforms import RandomErasing

    eraser = RandomErasing(probability, value=0, inplace=True)
    with torch.random.fork_rng(devices=[]):
        for image, row in zip(images, shard.rows.tolist()):
            torch.manual_seed(seed_for(seed, row))  # torchvision draws from the global generator
            eraser(image)
    return images


class Mixing:
    """Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019), timm's: one ratio a batch.

    Each image is mixed with the one that lies as far from the end as it from the beginning.
    """

    def __init__(self, settings: AugmentSettings, label_smoothing: float, classes: int) -> None:
        from timm.data import Mixup

        self._mixup = Mixup(settings.mixup, settings.cutmix, label_smoothing=label_smoothing, num_classes=classes)

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), B even, and labels (B,) -> mixed images and targets (B, classes), float32."""
        np.random.seed(seed % 2**32)  # noqa: NPY002 (timm draws from this generator)
        mixed: tuple[Tensor, Tensor] = self._mixup(images.clone(), labels)
        return mixed
