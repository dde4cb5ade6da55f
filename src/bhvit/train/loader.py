"""Batches of training images: kept decoded in memory where they fit, else decoded by worker processes.

Everything random is a function of (seed, epoch, step) or (seed, epoch, image), so that a run resumed
anywhere sees what an uninterrupted one sees, whatever the number of workers.

Shapes: B batch, H×W pixels, C channels. Pixels are uint8 (B, H, W, C) until they are normalised.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Dataset
from ..errors import UserError
from ..evaluate import decode
from ..image import Preprocess
from .config import TrainConfig


def seed_for(*keys: int) -> int:
    """A seed that is a function of all `keys` and looks unlike that of any others."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


class Batches:
    """The training images of a run, an epoch of shuffled and augmented batches at a time."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, config: TrainConfig, device: torch.device) -> None:
        if len(dataset) < config.batch_size:
            raise UserError(
                f"{len(dataset)} training images do not fill a batch of {config.batch_size}: "
                f"give --batch-size {max(2, len(dataset))} or less"
            )
        self.preprocess, self.config, self.device = preprocess, config, device
        self.labels = torch.from_numpy(dataset.labels)
        self.steps = len(dataset) // config.batch_size
        """Batches an epoch."""
        self.pixels = None if config.augment == "resized-crop" else cached(dataset, preprocess, config)
        self._loader = None if self.pixels is not None else self._workers(dataset)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, … of an epoch: images float32 (B, C, H, W), labels (B,), on the device."""
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, epoch))
        order = torch.randperm(len(self.labels), generator=generator)
        batches = order[: self.steps * self.config.batch_size].view(self.steps, -1)[start:]
        for step, (indices, pixels) in enumerate(zip(batches, self._pixels(epoch, batches)), start):
            pixels = pixels.to(self.device, non_blocking=True)
            if self.config.augment == "shift":
                pixels = shifted(pixels, self.config, seed_for(self.config.seed, epoch, step))
            elif self.config.augment == "none" and self.config.flip:
                pixels = moved(pixels, 0, self.config.flip, seed_for(self.config.seed, epoch, step))
            yield normalized(pixels, self.preprocess), self.labels[indices].to(self.device, non_blocking=True)

    def _pixels(self, epoch: int, batches: Tensor) -> Iterator[Tensor]:
        if self.pixels is not None:
            for indices in batches:
                yield self.pixels[indices]
            return
        assert self._loader is not None
        keys = [[(epoch, int(index)) for index in indices] for indices in batches]
        self._loader.batch_sampler.batches = keys  # type: ignore[union-attr]
        yield from self._loader

    def _workers(self, dataset: Dataset) -> DataLoader[Tensor]:
        workers = self.config.workers if self.config.workers >= 0 else os.cpu_count() or 1
        return DataLoader(
            _Decoder(dataset, self.preprocess, self.config),  # type: ignore[arg-type]
            batch_sampler=_Keys(),
            num_workers=workers,
            worker_init_fn=_quiet,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            # A forked copy of a process with OpenMP threads may hang.
            multiprocessing_context="forkserver" if workers and os.name == "posix" else None,
        )


class _Keys:
    """A batch sampler whose batches are set anew for each epoch."""

    batches: list[list[tuple[int, int]]] = []  # noqa: RUF012 (replaced, never changed)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Decoder:
    """(epoch, index) -> pixels, uint8 (H, W, C)."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, config: TrainConfig) -> None:
        self.dataset, self.preprocess, self.config = dataset, preprocess, config

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        epoch, index = key
        image = self.dataset.image(index)
        if self.config.augment != "resized-crop":
            return torch.from_numpy(self.preprocess.pixels(image))
        return torch.from_numpy(self._resized_crop(image, seed_for(self.config.seed, epoch, index, 1)))

    def _resized_crop(self, image: Any, seed: int) -> Any:
        from torchvision.transforms import RandomResizedCrop

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torchvision draws from the global generator
            top, left, height, width = RandomResizedCrop.get_params(image, [self.config.scale_min, 1.0], [3 / 4, 4 / 3])
            mirror = self.config.flip and bool(torch.rand(()) < 0.5)
        pixels = self.preprocess.stretched(image, (left, top, left + width, top + height))
        return np.ascontiguousarray(pixels[:, ::-1]) if mirror else pixels


def cached(dataset: Dataset, preprocess: Preprocess, config: TrainConfig) -> Tensor | None:
    """All images as uint8 (N, H, W, C), or None if they need more memory than the configuration allows."""
    if len(dataset) * preprocess.size[0] * preprocess.size[1] * preprocess.channels > config.cache_mb << 20:
        return None
    return torch.from_numpy(decode(dataset, preprocess, range(len(dataset))))


def normalized(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), contiguous: `Preprocess.normalize` on any device."""
    scale = torch.tensor([1 / (255 * std) for std in preprocess.std], device=pixels.device)
    offset = torch.tensor([-mean / std for mean, std in zip(preprocess.mean, preprocess.std)], device=pixels.device)
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.mul_(scale[:, None, None]).add_(offset[:, None, None])


def shifted(pixels: Tensor, config: TrainConfig, seed: int) -> Tensor:
    """The batch with every image moved, and turned and scaled where the configuration says so."""
    if config.rotate == 0 and config.zoom == 0:
        return moved(pixels, config.shift, config.flip, seed)
    return turned(pixels, config, seed)


def moved(pixels: Tensor, shift: float, flip: bool, seed: int) -> Tensor:
    """Whole-pixel moves of up to `shift` of an edge, half of the images mirrored if `flip`.

    What comes in at the border repeats it. One gather of uint8 for the whole batch.
    """
    count, height, width, _ = pixels.shape
    generator = torch.Generator().manual_seed(seed)
    most_h, most_w = round(shift * height), round(shift * width)
    rows = torch.arange(height) + torch.randint(-most_h, most_h + 1, (count, 1), generator=generator)
    columns = torch.arange(width) + torch.randint(-most_w, most_w + 1, (count, 1), generator=generator)
    if flip:
        mirror = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirror, width - 1 - columns, columns)
    rows, columns = rows.clamp_(0, height - 1).to(pixels.device), columns.clamp_(0, width - 1).to(pixels.device)
    batch = torch.arange(count, device=pixels.device)
    return pixels[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def turned(pixels: Tensor, config: TrainConfig, seed: int) -> Tensor:
    """Moves, turns and changes of scale, bilinear; what comes in at the border repeats it."""
    count, height, width, _ = pixels.shape
    generator = torch.Generator().manual_seed(seed)

    def draw(most: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * most

    angle, scale = torch.deg2rad(draw(config.rotate)), 1 / (1 + draw(config.zoom))
    aspect = width / height
    # Rows of the inverse map from output to input, in units of half an edge.
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin() / aspect, draw(2 * config.shift)], dim=1),
            torch.stack([scale * angle.sin() * aspect, scale * angle.cos(), draw(2 * config.shift)], dim=1),
        ],
        dim=1,
    )
    if config.flip:
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        theta[:, :, 0] *= mirror[:, None]
    planes = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta.to(pixels.device), list(planes.shape), align_corners=False)
    planes = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return planes.round_().to(torch.uint8).permute(0, 2, 3, 1)


def _quiet(worker: int) -> None:
    """Leave Ctrl-C to the main process: workers would print a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
