"""Measure how many photographs a second training's input prepares.

They are JPEG files: decoded, cropped at random, resized, mirrored.

    python -m benchmarks.training.input_rate

The files are made here: noise over smooth colours, 500×375 pixels, as large as ImageNet's on average (110 kB). Times
are CPU seconds of one process without workers, so that they count whatever else the machine does; a loader with workers
spends the same in each of them. Writes `input_rate.md` next to this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.common import add_page, markdown, write_results
from PIL import Image, ImageFilter

from bhvit.data.dataset import open_dataset
from bhvit.image import Preprocess
from bhvit.train.loader import Batches
from bhvit.train.settings import BatchSettings

SIZE = (500, 375)
BYTES = 110_000
"""Of the average training image of ImageNet."""
ASKED = 2000
"""Images a second that 16 cores should give."""


def photograph(seed: int) -> bytes:
    """Make a JPEG file (quality 90) of about `BYTES`: smooth colours and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    grain = np.asarray(
        Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).filter(
            ImageFilter.GaussianBlur(0.8)
        ),
        np.float32,
    )
    low, high = 0.0, 2.0
    for _ in range(8):
        strength = (low + high) / 2
        pixels = np.clip(smooth + strength * (grain - 128), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        low, high = (strength, high) if stream.tell() < BYTES else (low, strength)
    return stream.getvalue()


def rate(folder: Path, settings: BatchSettings, preprocess: Preprocess, rounds: int) -> list[float]:
    """CPU milliseconds an image, one value for each epoch of `rounds`."""
    batches = Batches(open_dataset(str(folder), "all"), preprocess, settings, torch.device("cpu"))
    found = []
    for epoch in range(rounds + 1):
        start = time.process_time()
        images = sum(len(labels) for _, labels in batches.epoch(epoch))
        found.append(1e3 * (time.process_time() - start) / images)
    return found[1:]  # the first reads files and imports torchvision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    add_page(parser, Path(__file__).with_name("input_rate.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    usual = BatchSettings(batch_size=min(64, args.images // 2), augment="resized-crop", workers=0, cache_mb=0)
    ways = {
        "all pixels decoded": (usual, 0.0),
        "`draft=1`": (usual, 1.0),
        "RandAugment, all pixels decoded": (dataclasses.replace(usual, rand_augment=9), 0.0),
    }
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = []
        for seed in range(args.images):
            path = folder / "ab"[seed % 2] / f"{seed}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(photograph(seed))
            sizes.append(path.stat().st_size)
        for way, (settings, draft) in ways.items():
            ms = rate(folder, settings, Preprocess.usual((224, 224), 3, draft=draft), args.rounds)
            middle = statistics.median(ms)
            rows.append([way, f"{middle:.2f} ({min(ms):.2f} to {max(ms):.2f})", f"{1e3 / middle:,.0f}"])
            print(*rows[-1], flush=True)
    text = f"""CPU time of one process from a file's bytes to normalised float32 224×224, {args.images} JPEG files of \
{SIZE[0]}×{SIZE[1]} pixels and {np.mean(sizes) / 1e3:.0f} kB, `resized-crop` with mirroring, medians of {args.rounds} \
epochs (least to most).

{markdown(["Way", "ms of CPU an image", "Images a second and core"], rows)}

{ASKED:,} images a second on 16 cores need {ASKED / 16:.0f} of each."""
    write_results(args.page, "Input of training", text)


if __name__ == "__main__":
    main()
