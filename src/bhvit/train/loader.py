"""Batches of training images, kept decoded or decoded by workers.

Where they fit, decoded images are kept on the device or in memory.

Everything random is a function of (seed, epoch, step) or (seed, epoch, image, copy), so that a run resumed
anywhere sees what an uninterrupted one sees, whatever the number of workers, and several processes
together see what one would.

Shapes: B batch, H×W pixels, C channels. Pixels are uint8 (B, H, W, C) until they are normalised.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ..data.dataset import Dataset
from ..data.masks import MaskedDataset
from ..data.metrics import decode
from ..errors import UserError, counted
from ..image import Preprocess
from ..system import allowed_cores
from .augment import Normalizer, draw_boxes, draw_moves, draw_turns, erased, moved, seed_for, turned
from .distributed import BatchShard
from .mask_augment import draw_pairs, scaled_pairs
from .settings import BatchSettings

SHARED_MEMORY = "/dev/shm"
PREFETCHED = 3
"""Batches that a worker holds ready or under way."""
LONGEST_TEMPORARY_FOLDER = 70
"""Bytes of its path: a socket's address has at most 107, and multiprocessing takes some 35 of them."""
DEVICE_SHARE = 0.25
"""Decoded images are kept on a GPU where they need no more than this share of its free memory."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch before `Batches.prepare`: tensors of fixed shapes, by name."""

    inputs: dict[str, Tensor]
    which: Tensor
    """Which training images they are, (B,) on the CPU."""


class Batches:
    """The training images of a run as epochs of shuffled, augmented batches."""

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        settings: BatchSettings,
        device: torch.device,
        shard: BatchShard | None = None,
        decoded: Tensor | None = None,
    ) -> None:
        """`decoded` holds all images, uint8 (N, H, W, C), where another `Batches` of them has decoded them."""
        check_fills_batch(len(dataset), settings.batch_size)
        self.preprocess, self.settings, self.device = preprocess, settings, device
        self.shard = shard or BatchShard(settings.batch_size)
        self.labels = torch.from_numpy(dataset.labels)
        self.masked = isinstance(dataset, MaskedDataset)
        """Whether each image has a mask, which is then the last channel of its pixels."""
        self.blocks, self.window = dataset.blocks, dataset.window
        self.steps = len(dataset) // settings.batch_size
        """Batches an epoch."""
        each = settings.augment == "resized-crop" or settings.rand_augment > 0  # an image at a time, by the workers
        self.pixels = None if each else cached(dataset, preprocess, settings.cache_mb) if decoded is None else decoded
        """All images decoded, uint8 (N, H, W, C), where they fit: on the device, else on the CPU."""
        if self.pixels is not None and _fits(self.pixels, device):
            self.pixels = self.pixels.to(device)
        self.normalize = Normalizer(preprocess, device)
        self._loader = None if self.pixels is not None else self._workers(dataset)

    @property
    def place(self) -> str:
        """Where decoded images are, in words."""
        if self.pixels is None:
            return "decoded by workers"
        return "on the device" if self.pixels.device.type != "cpu" else "in memory"

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's share of an epoch's batches from `start` to before `stop`.

        They are on the device.

        Images float32 (B, C, H, W) and labels (B,), or with masks (B, H, W).
        """
        for batch in self.drawn(epoch, start, stop):
            yield self.prepare({name: value.to(self.device) for name, value in batch.inputs.items()})

    def drawn(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the same batches before `prepare`, on the CPU.

        They hold pixels, or the numbers of images, and the random draws.
        """
        settings, seed, size = self.settings, self.settings.seed, self.preprocess.size
        generator = torch.Generator().manual_seed(seed_for(seed, epoch))
        order = self._order(generator).repeat_interleave(settings.repeats)
        copies = torch.arange(len(order)) % settings.repeats
        used, shape = self.steps * settings.batch_size, (self.steps, settings.batch_size)
        rows = self.shard.rows
        keys = torch.stack([order[:used].view(shape)[start:stop, rows], copies[:used].view(shape)[start:stop, rows]])
        for step, (indices, pixels) in enumerate(zip(keys[0], self._pixels(epoch, keys)), start):
            inputs = {**pixels, "labels": self.labels[indices]}
            if self.masked:
                inputs |= draw_pairs(settings, seed_for(seed, epoch, step), self.shard)
                yield Batch(inputs, indices)
                continue
            if settings.augment == "shift" and (settings.rotate or settings.zoom):
                inputs |= draw_turns(settings, size, seed_for(seed, epoch, step), self.shard)
            elif settings.augment == "shift" or (settings.augment == "none" and settings.flip):
                shift = settings.shift if settings.augment == "shift" else 0.0
                inputs |= draw_moves(shift, settings.flip, size, seed_for(seed, epoch, step), self.shard)
            if settings.erase:
                planes = self.preprocess.channels, *size
                inputs |= draw_boxes(settings.erase, planes, seed_for(seed, epoch, step, 3), self.shard)
            yield Batch(inputs, indices)

    def prepare(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Make images and labels of a batch's `inputs` on the device.

        Images are float32 (B, C, H, W), labels (B,), or of masks (B, H, W).

        It reads no number of them, so that a CUDA graph can hold it.
        """
        if "pixels" in inputs:
            source, which = inputs["pixels"], torch.arange(len(inputs["pixels"]), device=self.device)
        else:
            assert self.pixels is not None
            source, which = self.pixels, inputs["which"]
        if self.masked:
            return scaled_pairs(source[which], self.preprocess, self.normalize, inputs)
        if "rows" in inputs:
            pixels = moved(source, which, inputs["rows"], inputs["columns"])
        else:
            pixels = source if "pixels" in inputs else source[which]
            if "theta" in inputs:
                pixels = turned(pixels, inputs["theta"])
        images = self.normalize(pixels)
        if "boxes" in inputs:
            images = erased(images, inputs["boxes"])
        return images, inputs["labels"]

    def _order(self, generator: torch.Generator) -> Tensor:
        """Return all images in random order, (N,).

        Where the source is read in blocks, these are shuffled, then the images of `window` consecutive ones.
        """
        order = torch.randperm(len(self.labels), generator=generator)
        if self.blocks is None or self.pixels is not None:
            return order
        _, blocks = np.unique(self.blocks, return_inverse=True)
        place = torch.randperm(int(blocks.max()) + 1, generator=generator)[torch.from_numpy(blocks)]
        return order[torch.argsort(place[order] // self.window, stable=True)]

    def _pixels(self, epoch: int, keys: Tensor) -> Iterator[dict[str, Tensor]]:
        """Yield the "pixels" of each batch, or "which" images it has.

        The latter where `prepare` can reach all images.
        """
        if self.pixels is not None:
            reached = self.pixels.device.type == self.device.type
            for indices in keys[0]:
                yield {"which": indices} if reached else {"pixels": self.pixels[indices]}
            return
        assert self._loader is not None
        self._loader.batch_sampler.batches = [  # type: ignore[union-attr]
            [(epoch, index, copy) for index, copy in zip(indices, copies)]
            for indices, copies in zip(keys[0].tolist(), keys[1].tolist())
        ]
        for pixels in self._loader:
            if isinstance(pixels, UserError):
                raise pixels
            yield {"pixels": pixels}

    def _workers(self, dataset: Dataset) -> DataLoader[Tensor]:
        workers = self.settings.workers if self.settings.workers >= 0 else allowed_cores()
        size = self.settings.batch_size * math.prod(self.preprocess.size) * self.preprocess.channels
        if workers and (reason := cannot_start_workers(workers, size)):
            print(f"warning: images are decoded without worker processes: {reason}", file=sys.stderr)
            workers = 0
        return DataLoader(
            _Decoder(dataset, self.preprocess, self.settings),  # type: ignore[arg-type]
            batch_sampler=_Keys(),
            num_workers=workers,
            collate_fn=_stack,
            worker_init_fn=_quiet,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            # A forked copy of a process with OpenMP threads may hang.
            multiprocessing_context="forkserver" if workers and os.name == "posix" else None,
        )


def cannot_start_workers(workers: int, batch_bytes: int) -> str | None:
    """Say why worker processes would fail here; None if they would not.

    They need a short path for a socket, and shared memory.
    """
    folder = tempfile.gettempdir()
    if os.name == "posix" and len(os.fsencode(folder)) > LONGEST_TEMPORARY_FOLDER:
        return f"the temporary folder {folder} has too long a name for a socket in it; set TMPDIR to a shorter one"
    needed = workers * PREFETCHED * batch_bytes
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # no such folder: another system
        return None
    if free < needed:
        return (
            f"{SHARED_MEMORY} has {free >> 20} MiB free and {(needed >> 20) + 1} are needed; --workers 0 silences this"
        )
    return None


class _Keys:
    """A batch sampler whose batches are set again for each epoch."""

    batches: list[list[tuple[int, int, int]]] = []  # noqa: RUF012 (replaced, never changed)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _stack(images: list[Tensor | UserError]) -> Any:
    """Stack images (H, W, C), or return the error of one of them."""
    error = next((image for image in images if isinstance(image, UserError)), None)
    return default_collate(images) if error is None else error


class _Decoder:
    """(epoch, index, copy) -> pixels, uint8 (H, W, C), or why there are none.

    An error is returned, not raised: a DataLoader would raise it with a worker's whole traceback as its message.
    """

    def __init__(self, dataset: Dataset, preprocess: Preprocess, settings: BatchSettings) -> None:
        self.dataset, self.preprocess, self.settings = dataset, preprocess, settings

    def __getitem__(self, key: tuple[int, int, int]) -> Tensor | UserError:
        try:
            return self._decoded(*key)
        except UserError as error:
            return error

    def _decoded(self, epoch: int, index: int, copy: int) -> Tensor:
        if isinstance(self.dataset, MaskedDataset):
            return torch.from_numpy(self.dataset.pixels(index, self.preprocess))
        with torch.random.fork_rng(devices=[]):
            # torchvision draws from the global generator
            torch.manual_seed(seed_for(self.settings.seed, epoch, index, 1 + copy))
            if self.settings.augment == "resized-crop":
                pixels = torch.from_numpy(self._resized_crop(index))
            else:
                image = self.dataset.image(index, self.preprocess.needed)
                pixels = torch.from_numpy(self.preprocess.pixels(image))
            return self._rand_augmented(pixels) if self.settings.rand_augment else pixels

    def _resized_crop(self, index: int) -> Any:
        from torchvision.transforms import RandomResizedCrop

        box: tuple[int, int, int, int] | None = None  # in pixels of the whole picture, at whatever scale it is decoded
        size = (0, 0)

        def draw(width: int, height: int) -> tuple[int, int, int, int]:
            whole = torch.empty((1, height, width), device="meta")
            top, left, h, w = RandomResizedCrop.get_params(whole, [self.settings.scale_min, 1.0], [3 / 4, 4 / 3])
            return left, top, left + w, top + h

        def needed(width: int, height: int) -> tuple[int, int]:
            nonlocal box, size
            box, size = draw(width, height), (width, height)
            return self.preprocess.needed_of(box)(width, height)

        image = self.dataset.image(index, needed if self.preprocess.draft else None)
        if box is None:
            box, size = draw(*image.size), image.size
        mirror = self.settings.flip and bool(torch.rand(()) < 0.5)
        if image.size != size:
            scale_w, scale_h = image.width / size[0], image.height / size[1]
            right, bottom = math.ceil(box[2] * scale_w), math.ceil(box[3] * scale_h)
            box = int(box[0] * scale_w), int(box[1] * scale_h), min(right, image.width), min(bottom, image.height)
        pixels = self.preprocess.stretched(image, box)
        return np.ascontiguousarray(pixels[:, ::-1]) if mirror else pixels

    def _rand_augmented(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms import RandAugment

        mean = [255 * value for value in self.preprocess.mean]
        augmented: Tensor = RandAugment(2, self.settings.rand_augment, fill=mean)(pixels.permute(2, 0, 1))
        return augmented.permute(1, 2, 0).contiguous()


def check_fills_batch(images: int, batch_size: int) -> None:
    """Raises UserError if the training images do not fill a batch."""
    if images < 2:
        raise UserError(f"there is {counted(images, 'training image')}, and batch norm needs two or more: add some")
    if images < batch_size:
        raise UserError(
            f"{images} training images do not fill a batch of {batch_size}: give --batch-size {images} or less"
        )


def cached(dataset: Dataset, preprocess: Preprocess, cache_mb: int) -> Tensor | None:
    """All images as uint8 (N, H, W, C), or None if they need more memory than `cache_mb` MiB."""
    if len(dataset) * preprocess.size[0] * preprocess.size[1] * preprocess.channels > cache_mb << 20:
        return None
    return torch.from_numpy(decode(dataset, preprocess, range(len(dataset))))


def _fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether decoded images may be kept on a device."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.nbytes <= DEVICE_SHARE * free


def _quiet(worker: int) -> None:
    """Leave Ctrl-C to the main process: workers would print a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
