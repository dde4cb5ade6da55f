"""Augmentation of whole batches: random numbers are drawn on the CPU, and applied wherever the images are.

Random draws are a function of a seed and of an image's place in the batch of all processes; a process holds its
`BatchShard` of that. Draws are a few small tensors of fixed shapes, by name. Code that applies them never reads their
values on the host, so a CUDA graph can replay it with new draws.

Shapes: B batch, H×W pixels, C channels; pixels are uint8 (B, H, W, C).
"""

from __future__ import annotations

import math

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


class Normalizer:
    """`Preprocess.normalize` of pixels on a device: (B, H, W, C) -> float32 (B, C, H, W), contiguous."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._scale = torch.tensor([1 / (255 * std) for std in preprocess.std], device=device)[:, None, None]
        offsets = [-mean / std for mean, std in zip(preprocess.mean, preprocess.std)]
        self._offset = torch.tensor(offsets, device=device)[:, None, None]

    def __call__(self, pixels: Tensor) -> Tensor:
        """The images, for uint8 or float32 pixels of whole numbers."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.mul_(self._scale).add_(self._offset)


def draw_moves(shift: float, flip: bool, size: tuple[int, int], seed: int, shard: BatchShard) -> dict[str, Tensor]:
    """Whole-pixel moves of up to `shift` of an edge, half of the images mirrored if `flip`; see `moved`.

    For each image, "rows" (B, H) and "columns" (B, W) say which of its rows and columns come where.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)

    def draw(most: int) -> Tensor:
        return torch.randint(-most, most + 1, (shard.batch, 1), generator=generator)[shard.rows]

    rows = torch.arange(height) + draw(round(shift * height))
    columns = torch.arange(width) + draw(round(shift * width))
    if flip:
        mirror = torch.rand(shard.batch, 1, generator=generator)[shard.rows] < 0.5
        columns = torch.where(mirror, width - 1 - columns, columns)
    return {"rows": rows.clamp_(0, height - 1), "columns": columns.clamp_(0, width - 1)}


def moved(pixels: Tensor, which: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The images `which` (B,) of `pixels` (N, H, W, C), moved as `draw_moves` says: one gather of uint8.

    What comes in at the border repeats it.
    """
    return pixels[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def draw_turns(settings: AugmentSettings, size: tuple[int, int], seed: int, shard: BatchShard) -> dict[str, Tensor]:
    """Moves, turns, changes of scale and mirror images; see `turned`.

    "theta" (B, 2, 3) has the rows of the inverse map from output to input, in units of half an edge.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(most: float) -> Tensor:
        return (torch.rand(shard.batch, generator=generator)[shard.rows] * 2 - 1) * most

    angle, scale = torch.deg2rad(draw(settings.rotate)), 1 / (1 + draw(settings.zoom))
    aspect = size[1] / size[0]
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
    return {"theta": theta}


def turned(pixels: Tensor, theta: Tensor) -> Tensor:
    """The batch moved, turned and scaled as `draw_turns` says, bilinear; what comes in at the border repeats it."""
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return planes.round_().to(torch.uint8).permute(0, 2, 3, 1)


def draw_boxes(probability: float, shape: tuple[int, int, int], seed: int, shard: BatchShard) -> dict[str, Tensor]:
    """Rectangles to erase of images of `shape` (C, H, W): "boxes" (B, 4), top, left, bottom and right; see `erased`.

    Random erasing (Zhong et al., AAAI 2020) with torchvision's draws; an image has none with 1 - `probability`.
    """
    from torchvision.transforms import RandomErasing

    eraser, like = RandomErasing(probability, value=0), torch.empty(shape, device="meta")
    boxes = torch.zeros(len(shard.rows), 4, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        for box, row in zip(boxes, shard.rows.tolist()):
            torch.manual_seed(seed_for(seed, row))  # torchvision draws from the global generator
            if torch.rand(1) < probability:
                top, left, height, width, value = eraser.get_params(like, eraser.scale, eraser.ratio, [0.0])
                if value is not like:  # which stands for no rectangle found
                    box.copy_(torch.tensor([top, left, top + height, left + width]))
    return {"boxes": boxes}


def erased(images: Tensor, boxes: Tensor) -> Tensor:
    """Normalised images (B, C, H, W), changed in place: the rectangles of `draw_boxes` become the mean colour, 0."""
    return images.masked_fill_(_within(boxes, images), 0)


def _within(boxes: Tensor, images: Tensor) -> Tensor:
    """Which pixels lie in the box of their image, (B, 1, H, W); boxes (B, 4) are top, left, bottom and right."""
    height, width = images.shape[-2:]
    rows, columns = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    top, left, bottom, right = boxes[:, :, None].unbind(dim=1)
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]
    return inside[:, None]


class Mixing:
    """Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) as timm has them: one ratio a batch.

    Each image is mixed with the one that lies as far from the end as it from the beginning.
    """

    def __init__(self, settings: AugmentSettings, label_smoothing: float, classes: int) -> None:
        self._mixup, self._cutmix, self._classes = settings.mixup, settings.cutmix, classes
        self._other = label_smoothing / classes
        self._own = 1 - label_smoothing + self._other

    def draw(self, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        """For images of `size` (H, W): "shares" (4,), those of an image and of the other in pixels and in labels, and
        the "box" (1, 4) that is cut out of the other. The draws are timm's with NumPy's generator so seeded."""
        generator = np.random.RandomState(seed % 2**32)  # what timm draws from
        generator.rand()  # whether to mix at all, which timm asks too
        cuts = self._cutmix > 0 and (self._mixup == 0 or generator.rand() < 0.5)
        alpha = self._cutmix if cuts else self._mixup
        own, box = float(generator.beta(alpha, alpha)), (0, 0, 0, 0)
        if cuts and own < 1:
            (height, width), ratio = size, math.sqrt(1 - own)
            cut = int(height * ratio), int(width * ratio)
            row, column = int(generator.randint(0, height)), int(generator.randint(0, width))
            top, bottom = max(row - cut[0] // 2, 0), min(row + (cut[0] + 1) // 2, height)
            left, right = max(column - cut[1] // 2, 0), min(column + (cut[1] + 1) // 2, width)
            box, own = (top, left, bottom, right), 1 - (bottom - top) * (right - left) / (height * width)
        pixels = (1.0, 0.0) if cuts else (own, 1 - own)
        return {"shares": torch.tensor([*pixels, own, 1 - own]), "box": torch.tensor([box])}

    def apply(self, images: Tensor, labels: Tensor, shares: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), B even, and labels (B,) -> mixed images and targets (B, classes), float32."""
        of_image, of_other, of_label, of_other_label = shares.unbind()
        other = images.flip(0)
        mixed = torch.where(_within(box, images), other, images * of_image + other * of_other)
        targets = torch.full((len(labels), self._classes), self._other, device=labels.device)
        targets = targets.scatter_(1, labels.unsqueeze(1), self._own)
        return mixed, targets * of_label + targets.flip(0) * of_other_label
