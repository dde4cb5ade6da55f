"""torchvision's LR-ASPP MobileNetV3-Large: trained on our batches, exported to ONNX in float32 and int8."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from benchmarks import onnx_files
from bhvit.data.metrics import Floats
from bhvit.data.segmentation_metrics import Labeller, Labels
from bhvit.image import Preprocess
from bhvit.runtime import label_maps
from bhvit.train import TrainConfig
from bhvit.train.augment import seed_for
from bhvit.train.context import RunContext
from bhvit.train.loader import Batches
from bhvit.train.losses import count_weights, mask_loss
from bhvit.train.optim import learning_rate, make_optimizer, set_learning_rate
from bhvit.train.run_data import open_run_data

CALIBRATION_IMAGES = 32


class Network(nn.Module):
    """The network without the dictionary that torchvision wraps around its logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)["out"]
        return logits


def train(config: TrainConfig) -> None:
    """Train a stage, from where it was left; `last.pt` and `log.jsonl` are written after each epoch.

    From scratch, as our networks are: users would start from ImageNet's weights, which are not at hand everywhere.
    """
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    torch.set_num_threads(config.threads)
    torch.manual_seed(seed_for(config.seed))
    images = open_run_data(config, RunContext(device=torch.device("cpu"), quiet=True))
    names = images.train.class_names
    (folder / "data.json").write_text(json.dumps({**images.identity, "preprocess": images.preprocess.to_json()}))
    model = Network(len(names))
    if config.init is not None:
        model.load_state_dict(torch.load(config.init.replace(".safetensors", ".pt"), weights_only=True)["model"])
    optimizer = make_optimizer(model, config)
    batches = Batches(images.train, images.preprocess, config, torch.device("cpu"))
    labels = (images.train.pixels(index, images.preprocess)[..., -1] for index in range(len(images.train)))
    counts = sum(np.bincount(mask.ravel(), minlength=256)[: len(names)] for mask in labels)
    weights = count_weights(np.asarray(counts), config.balance)
    done = 0
    if (folder / "last.pt").exists():
        saved = torch.load(folder / "last.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["epochs"]
    for epoch in range(done, config.epochs):
        model.train()
        losses, begin = [], time.perf_counter()
        for step, (pixels, labels) in enumerate(batches.epoch(epoch)):
            set_learning_rate(optimizer, learning_rate(config, epoch * batches.steps + step, batches.steps))
            optimizer.zero_grad()
            loss = mask_loss(config, model(pixels), labels, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
            optimizer.step()
            losses.append(loss.item())
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        torch.save(state, folder / "part.pt")
        (folder / "part.pt").replace(folder / "last.pt")
        entry = {"epoch": epoch + 1, "train_loss": float(np.mean(losses)), "seconds": time.perf_counter() - begin}
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        print(f"epoch {epoch + 1}/{config.epochs}: loss {entry['train_loss']:.3f}", flush=True)


class Exported:
    """The network in ONNX Runtime."""

    def __init__(self, file: Path, preprocess: Preprocess, threads: int = 1) -> None:
        self._logits = onnx_files.onnxruntime(file, threads)
        self._preprocess = preprocess
        self.file = file

    def labels(self, images: Floats) -> Labels:
        """Normalised images (B, C, H, W) -> labels (B, H, W)."""
        return np.asarray(self._logits(images).argmax(axis=1).astype(np.uint8))

    def labeller(self) -> Labeller:
        """A function of an image, as `Session.segment` is."""

        def label(image: Image.Image) -> Labels:
            pixels = self._preprocess.decoded(image)
            resized = self._preprocess.resized(pixels, self._preprocess.size)
            found = self.labels(self._preprocess.normalize(resized[None]))[0]
            return label_maps.resized(found, pixels.shape[:2])

        return label


def export(folder: Path, out: Path, config: TrainConfig) -> tuple[dict[str, Path], Preprocess, tuple[str, ...]]:
    """The files of a finished stage, "float32" and "int8" calibrated on training images; how images are prepared."""
    images = open_run_data(config, RunContext(device=torch.device("cpu"), quiet=True))
    names = images.train.class_names
    model = Network(len(names))
    model.load_state_dict(torch.load(folder / "last.pt", weights_only=True)["model"])
    model.eval()
    files = {kind: out / f"{folder.name}-{kind}.onnx" for kind in ("float32", "int8")}
    onnx_files.export(model, files["float32"], images.preprocess.size)
    count = min(CALIBRATION_IMAGES, len(images.train))
    pixels = np.stack([images.train.pixels(index, images.preprocess)[..., :3] for index in range(count)])
    onnx_files.quantise(files["float32"], files["int8"], images.preprocess.normalize(pixels))
    return files, images.preprocess, names
