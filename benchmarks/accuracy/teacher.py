"""Train a full-precision teacher on a CPU, and keep its outputs.

It is for small images; the outputs are those for every training image.

    python -m benchmarks.accuracy.teacher --data ../shared/data/cifar10 --out runs/teacher

A residual network of three stages with a whitened first layer, SGD with Nesterov momentum under a triangular schedule,
label smoothing, random moves, and mirror images that alternate from epoch to epoch. Everything is fixed beforehand: the
model of the last epoch is the result, and test images choose nothing. bfloat16 where the processor multiplies it.
A run that was interrupted goes on from its last epoch. `outputs.npz` holds the logits of each training image and of its
mirror image, float16 (images, 2, classes), and the labels: `bhvit train --teacher runs/teacher/outputs.npz` learns from
them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bhvit.data import open_dataset
from bhvit.data.metrics import decode
from bhvit.files import write_atomically
from bhvit.image import Preprocess

MOVE = 2
"""Pixels that a training image is moved by, at most, either way."""
PATCH = 2
"""Edge of the patches that the first layer whitens."""


class Whitening(nn.Conv2d):
    """Project patches on their principal components, both signs, at unit variance."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels * PATCH**2, PATCH)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def measure(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the weights from images (N, C, H, W)."""
        patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))
        directions = (vectors / (values + eps).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([directions, -directions]))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that begins by passing its inputs on (dirac), as far as there are outputs for them."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:inputs])
    return layer


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class Stage(nn.Module):
    """Pooling, then convolutions; the last adds to what enters it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs), _norm(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), _norm(outputs)
        self.conv3, self.norm3 = _conv(outputs, outputs), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        y = F.gelu(self.norm2(self.conv2(x)))
        return F.gelu(self.norm3(self.conv3(y)) + x)


class Teacher(nn.Module):
    """Images (B, C, H, W), normalised -> logits (B, classes)."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.whitening = Whitening(channels)
        first = self.whitening.out_channels
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip((first, *widths), widths)))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stages(F.gelu(self.whitening(images)))
        logits: Tensor = self.head(x.amax(dim=(2, 3))).float() / 9
        return logits


def normalised(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), channels last."""
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def moved(pixels: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Move images (B, H, W, C) by up to MOVE pixels, and mirror some.

    The border is reflected.
    """
    count, height, width, _ = pixels.shape

    def places(edge: int) -> Tensor:
        place = torch.arange(edge) + torch.randint(-MOVE, MOVE + 1, (count, 1), generator=generator)
        return (edge - 1 - (edge - 1 - place.abs()).abs()).abs()

    rows, columns = places(height), places(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def learning_rate(done: float) -> float:
    """Return the share of the peak rate after a share `done` of all steps.

    It rises in the first fifth, then falls.
    """
    return 0.2 + 0.8 * done / 0.2 if done < 0.2 else 1 - 0.95 * (done - 0.2) / 0.8


@torch.no_grad()
def logits_of(model: Teacher, pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Compute the logits of images (N, H, W, C) and of their mirror images.

    They are (N, 2, classes).
    """
    model.eval()
    parts = []
    for part in pixels.split(500):
        images = normalised(part, preprocess)
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(torch.stack([model(images), model(images.flip(3))], dim=1))
    return torch.cat(parts)


def train_epoch(
    model: Teacher,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    labels: Tensor,
    preprocess: Preprocess,
    args: argparse.Namespace,
    epoch: int,
) -> float:
    """One pass over the training images. Returns the mean loss."""
    model.train()
    generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
    order = torch.randperm(len(pixels), generator=generator)
    half = torch.rand(len(pixels), generator=torch.Generator().manual_seed(args.seed)) < 0.5
    steps = len(pixels) // args.batch_size
    total = 0.0
    for step in range(steps):
        rate = learning_rate((epoch + step / steps) / args.epochs)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        which = order[step * args.batch_size : (step + 1) * args.batch_size]
        mirrored = half[which] ^ (epoch % 2 == 1)  # each image is mirrored in every second epoch
        images = normalised(moved(pixels[which], mirrored, generator), preprocess)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        loss = F.cross_entropy(logits, labels[which], label_smoothing=args.label_smoothing, reduction="sum")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / (steps * args.batch_size)


def make_optimizer(model: Teacher, args: argparse.Namespace) -> torch.optim.SGD:
    """SGD whose rates are for a loss summed over a batch.

    Biases of norms learn 64 times as fast.
    """
    scale = 1024 * (1 + 1 / (1 - args.momentum))
    biases = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    peak = args.lr / scale
    decay = args.weight_decay * args.batch_size / args.lr
    groups = [
        {"params": weights, "peak": peak, "weight_decay": decay},
        {"params": biases, "peak": 64 * peak, "weight_decay": decay / 64},
    ]
    return torch.optim.SGD(groups, lr=peak, momentum=args.momentum, nesterov=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="training and test images, as for `bhvit train`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 256], help="channels of each stage")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--lr", type=float, default=9.0, help="peak learning rate for 1024 images")
    parser.add_argument("--momentum", type=float, default=0.85)
    parser.add_argument("--weight-decay", type=float, default=0.012)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="images of each split, for trying it out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    preprocess = Preprocess(size=(args.img_size, args.img_size))
    splits = [open_dataset(args.data, split) for split in ("train", "test")]
    splits = [split.subset(np.arange(min(len(split), args.limit or len(split)))) for split in splits]
    (pixels, labels), (test, answers) = (
        (torch.from_numpy(decode(split, preprocess, range(len(split)))), torch.from_numpy(split.labels))
        for split in splits
    )
    model = Teacher(preprocess.channels, len(splits[0].class_names), tuple(args.widths))
    model.whitening.measure(normalised(pixels[:5000], preprocess))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, args)
    saved, log, first = args.out / "last.pt", args.out / "log.jsonl", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in range(first, args.epochs):
        begin = time.perf_counter()
        loss = train_epoch(model, optimizer, pixels, labels, preprocess, args, epoch)
        seconds = time.perf_counter() - begin
        entry = {"epoch": epoch + 1, "train_loss": round(loss, 4), "seconds": round(seconds, 1)}
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(entry, flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
        torch.save(state, saved.with_suffix(".part"))
        saved.with_suffix(".part").replace(saved)
    found = logits_of(model, test, preprocess)
    result = {
        "settings": {key: str(value) for key, value in vars(args).items()},
        "test_images": len(test),
        "top1": (found[:, 0].argmax(1) == answers).float().mean().item(),
        "top1_with_mirror_images": (found.mean(1).argmax(1) == answers).float().mean().item(),
    }
    outputs = logits_of(model, pixels, preprocess)
    result["training_top1"] = (outputs[:, 0].argmax(1) == labels).float().mean().item()
    np.savez(args.out / "outputs.npz", logits=outputs.half().numpy(), labels=labels.numpy())
    write_atomically(args.out / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
