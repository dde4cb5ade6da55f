"""Accuracy against milliseconds and file size: BHViT, other binary networks, and what people would take instead.

    python -m benchmarks.accuracy.front --data ../shared/data/cifar10 --out runs/front --epochs 3
    python -m benchmarks.accuracy.front --time
    python -m benchmarks.accuracy.front --out runs/front --table

The first trains the networks that have no result yet in --out, each for the same number of epochs and with the recipe
that suits it, and continues where it was stopped; `--images` takes a part of the training images. The second times all
of them, trained or not, in turns. The third takes new results into `logs/front.jsonl`, and draws `front.md` and its
figure of all that is there. Needs onnx, onnxscript, onnxruntime and openvino in addition to the development
environment.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import onnx_files
from benchmarks.accuracy.contenders import CONTENDERS, Contender, slug
from benchmarks.accuracy.front_page import collect, times, write_page
from torch import nn

import bhvit
from bhvit.data.dataset import open_dataset
from bhvit.data.metrics import Floats, Predict, evaluate
from bhvit.data.parquet import ParquetStore
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.integrations.onnx import to_onnx
from bhvit.models import BHViT, load_checkpoint
from bhvit.train import Callback, TrainConfig, load_recipe, train
from bhvit.train.augment import seed_for
from bhvit.train.context import RunContext
from bhvit.train.loader import Batches
from bhvit.train.optim import learning_rate, make_optimizer, set_learning_rate
from bhvit.train.run_data import open_run_data

CALIBRATION_IMAGES = 256
PACKED = "model.bhv"
SIZE = (32, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="parquet folder, or cifar10 to download")
    parser.add_argument("--out", type=Path, default=Path("runs/front"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, help="of the training images; a tenth of them is held out as ever")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks by the beginnings of their folders' names")
    parser.add_argument("--time", action="store_true", help="time all networks")
    parser.add_argument("--table", action="store_true", help="draw the page and the figure of what there is")
    args = parser.parse_args()
    if args.time:
        times(CONTENDERS)
    elif args.table:
        collect(args.out)
        write_page()
    else:
        data = args.data if args.images is None else str(part_of(args.data, args.images, args.out))
        for contender in chosen(args.only):
            _row(contender, data, args)


def chosen(names: list[str] | None) -> list[Contender]:
    """The networks whose folder's name begins with one of `names`, in that order; all without names."""
    if names is None:
        return list(CONTENDERS)
    return [one for name in names for one in CONTENDERS if slug(one.name).startswith(name)]


def part_of(data: str, images: int, out: Path) -> Path:
    """A folder of `images` of the training images, always the same ones, and of all test images."""
    folder = out / f"images-{images}"
    if not (folder / "train.parquet").exists():
        import pyarrow
        import pyarrow.parquet

        folder.mkdir(parents=True, exist_ok=True)
        stores = {split: open_dataset(data, split).store for split in ("train", "test")}
        files = {split: store.files for split, store in stores.items() if isinstance(store, ParquetStore)}
        for number, file in enumerate(files["test"]):
            shutil.copyfile(file, folder / f"test-{number:05}.parquet")
        whole = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files["train"]])
        rows = np.sort(np.random.default_rng(0).permutation(len(whole))[:images])
        pyarrow.parquet.write_table(whole.take(rows), folder / "part")
        (folder / "part").replace(folder / "train.parquet")
    return folder


def _row(contender: Contender, data: str, args: argparse.Namespace) -> None:
    folder = args.out / f"{slug(contender.name)}-{args.epochs}x{args.images or 'all'}-{args.seed}"
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    given = {"data": data, "out": str(folder), "epochs": args.epochs, "seed": args.seed, "threads": 1, "workers": 0}
    settings = {"warmup_epochs": min(1.0, args.epochs / 3), **contender.settings}
    config = TrainConfig.from_dict({**load_recipe("cifar10"), **settings, **given})
    torch.set_num_threads(1)
    top1 = _train_ours(contender, config, folder) if contender.network is None else _train(contender, config, folder)
    result = {
        "network": contender.name,
        "images": len(open_dataset(data, "train")),
        "epochs": args.epochs,
        "seed": args.seed,
        "top1": top1,
        "cpu_minutes": round(sum(_seconds(folder).values()) / 60, 2),
    }
    (folder / "result.json").write_text(json.dumps(result))
    print(result, flush=True)


class _CpuTime(Callback):
    """Notes the processor time of each epoch, also of a run that was continued."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, time.process_time()

    def on_epoch_end(self, entry: Mapping[str, Any], model: BHViT | None = None) -> None:
        now = time.process_time()
        seconds = {**_seconds(self.folder), str(entry["epoch"]): now - self.before}
        (self.folder / "cpu.json").write_text(json.dumps(seconds))
        self.before = now


def _seconds(folder: Path) -> dict[str, float]:
    """Processor time by epoch."""
    found: dict[str, float] = json.loads((folder / "cpu.json").read_text()) if (folder / "cpu.json").exists() else {}
    return found


def _train_ours(contender: Contender, config: TrainConfig, folder: Path) -> dict[str, float]:
    """Train with bhvit; the accuracy of the last epoch's weights by precision."""
    begun = (folder / "config.json").exists()
    result = train(config, resume=begun, force=not begun, quiet=True, callbacks=[_CpuTime(folder)])
    model = load_checkpoint(result.last)
    if not contender.floating:
        return {"1 bit": packed_top1(model, folder, config.data)[1]}
    images = open_run_data(config, RunContext(device=torch.device("cpu"), quiet=True))
    calibration = next(Batches(images.train, images.preprocess, config, torch.device("cpu")).epoch(0))[0]
    return _measured(model, folder, config.data, calibration.numpy())


def packed_top1(model: BHViT, folder: Path, data: str) -> tuple[bhvit.Session, float]:
    """Pack a model into a folder as PACKED; return its session and top-1 accuracy."""
    bhvit.pack(model, folder / PACKED, force=True)
    session = bhvit.Session(folder / PACKED)
    return session, evaluate(session, open_dataset(data, "test"), session.preprocessing).top1


def _train(contender: Contender, config: TrainConfig, folder: Path) -> dict[str, float]:
    """Train a PyTorch module as ours are trained; saved and continued after every epoch."""
    assert contender.network is not None
    torch.manual_seed(seed_for(config.seed))
    images = open_run_data(config, RunContext(device=torch.device("cpu"), quiet=True))
    model = contender.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(images.train, images.preprocess, config, torch.device("cpu"))
    optimizer = make_optimizer(model, config)
    saved, done = folder / "last.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epochs"]
    clock = _CpuTime(folder)
    for epoch in range(done, config.epochs):
        _epoch(model, optimizer, batches, config, epoch)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        torch.save(state, saved.with_suffix(".part"))
        saved.with_suffix(".part").replace(saved)
        clock.on_epoch_end({"epoch": epoch + 1})
    return _measured(model, folder, config.data, next(batches.epoch(0))[0].numpy())


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, config: TrainConfig, epoch: int
) -> None:
    model.train()
    for step, (pixels, labels) in enumerate(batches.epoch(epoch)):
        set_learning_rate(optimizer, learning_rate(config, epoch * batches.steps + step, batches.steps))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model(pixels.to(memory_format=torch.channels_last))
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}/{config.epochs}: loss {loss.item():.3f}", flush=True)


def _measured(model: nn.Module, folder: Path, data: str, calibration: Floats) -> dict[str, float]:
    """The accuracy of the test images by precision, each with the exported file in ONNX Runtime."""
    files = exported(model, folder, calibration[:CALIBRATION_IMAGES])
    test = open_dataset(data, "test")
    preprocess = Preprocess.usual(SIZE, 3)
    found: dict[str, float] = {}
    for precision, file in files.items():
        predict: Predict = onnx_files.onnxruntime(file)
        found[precision] = evaluate(predict, test, preprocess).top1
    return found


def exported(model: nn.Module, folder: Path, calibration: Floats) -> dict[str, Path]:
    """ONNX files by precision: float32, and int8 calibrated on normalised images."""
    files = {"float32": folder / "float32.onnx", "int8": folder / "int8.onnx"}
    if isinstance(model, BHViT):
        bhvit.pack(model, folder / PACKED, force=True)
        files["float32"].write_bytes(to_onnx(bhv_file.read(folder / PACKED), "float32"))
    else:
        onnx_files.export(model, files["float32"], SIZE, any_batch=True)
    onnx_files.quantise(files["float32"], files["int8"], calibration)
    return files


if __name__ == "__main__":
    main()
