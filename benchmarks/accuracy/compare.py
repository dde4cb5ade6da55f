"""Accuracy, size and speed of BHViT and its peers: same data, epochs, augmentation and evaluation.

    python -m benchmarks.accuracy.compare --data ../shared/data/cifar10 --out runs/compare --epochs 3
    python -m benchmarks.accuracy.compare --out runs/compare --table

The first trains what is not yet trained in --out, and measures accuracy; the second times all files side by side and
writes `results.md`. Needs onnx, onnxscript and onnxruntime in addition to the development environment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from benchmarks.accuracy.contenders import OURS, TIMM, slug
from benchmarks.common import markdown, write_results

import bhvit
from bhvit.cost.counts import op_costs, total
from bhvit.data.dataset import open_dataset
from bhvit.data.metrics import Floats, evaluate
from bhvit.models import BHViT, load_checkpoint
from bhvit.timing import Run, measure
from bhvit.train import TrainConfig, load_recipe, train
from bhvit.train.augment import seed_for
from bhvit.train.context import RunContext
from bhvit.train.loader import Batches
from bhvit.train.optim import learning_rate, make_optimizer, set_learning_rate
from bhvit.train.run_data import open_run_data

CALIBRATION_IMAGES = 256
PACKED = "model.bhv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="parquet folder, or cifar10 to download")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[*OURS, *TIMM], metavar="NAME")
    parser.add_argument("--table", action="store_true", help="time what is trained and write the page")
    args = parser.parse_args()
    if args.table:
        _table(args.out)
        return
    for name in args.only:
        folder = args.out / slug(name)
        if (folder / "result.json").exists():
            continue
        settings = {
            **load_recipe("cifar10"),
            "data": args.data,
            "out": str(folder),
            "epochs": args.epochs,
            "seed": args.seed,
            "threads": 1,
            **OURS.get(name, {}),
        }
        config = TrainConfig.from_dict(settings)
        begin = time.perf_counter()
        rows = _ours(config, folder) if name in OURS else _timm(TIMM[name], config, folder)
        result = {
            "name": name,
            "epochs": args.epochs,
            "seed": args.seed,
            "rows": rows,
            "minutes": (time.perf_counter() - begin) / 60,
        }
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        print(result, flush=True)


def _ours(config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    """Train, pack and evaluate the packed file."""
    session, top1 = packed_top1(load_checkpoint(train(config, force=True, quiet=True).last), folder, config.data)
    ops = total(op_costs(session.spec)).ops
    return [{"what": "packed, bhvit", "file": PACKED, "top1": top1, "ops": ops}]


def packed_top1(model: BHViT, folder: Path, data: str) -> tuple[bhvit.Session, float]:
    """Pack a model into a folder as PACKED; return its session and top-1 accuracy."""
    bhvit.pack(model, folder / PACKED, force=True)
    session = bhvit.Session(folder / PACKED)
    return session, evaluate(session, open_dataset(data, "test"), session.preprocessing).top1


def _timm(name: str, config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    """Train a model of timm as ours are trained; export float32 and int8."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(seed_for(config.seed))
    images = open_run_data(config, RunContext(device=torch.device("cpu"), quiet=True))
    model = timm.create_model(name, num_classes=len(images.train.class_names))
    batches = Batches(images.train, images.preprocess, config, torch.device("cpu"))
    optimizer = make_optimizer(model, config)
    for epoch in range(config.epochs):
        model.train()
        for step, (pixels, labels) in enumerate(batches.epoch(epoch)):
            set_learning_rate(optimizer, learning_rate(config, epoch * batches.steps + step, batches.steps))
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(pixels), labels, label_smoothing=config.label_smoothing)
            loss.backward()
            optimizer.step()
        print(f"{name}: epoch {epoch + 1}, loss {loss.item():.3f}", flush=True)
    model.eval()
    float_file, int_file = folder / "float32.onnx", folder / "int8.onnx"
    example = torch.zeros(1, 3, *images.preprocess.size)
    torch.onnx.export(
        model,
        (example,),
        str(float_file),
        dynamo=True,
        external_data=False,
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    calibration = next(batches.epoch(0))[0][:CALIBRATION_IMAGES]
    quantise(float_file, int_file, calibration.numpy())
    test = open_dataset(config.data, "test")
    macs = _macs(model, example)
    rows = []
    for kind, file in (("float32, ONNX Runtime", float_file), ("int8, ONNX Runtime", int_file)):
        found = evaluate(_onnx(file), test, images.preprocess)
        rows.append({"what": kind, "file": file.name, "top1": found.top1, "ops": macs})
    return rows


def _macs(model: torch.nn.Module, example: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return counter.get_total_flops() // 2


def quantise(source: Path, target: Path, calibration: Floats) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rows = iter(calibration)

        def get_next(self) -> dict[str, Floats] | None:
            row = next(self.rows, None)
            return None if row is None else {"x": row[None]}

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )
    prepared.unlink()


def _onnx(file: Path) -> Callable[[Floats], Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def predict(images: Floats) -> Floats:
        logits: Floats = session.run(None, {"x": images})[0]
        return logits

    return predict


def _table(out: Path) -> None:
    results = [
        json.loads((out / slug(name) / "result.json").read_text())
        for name in [*OURS, *TIMM]
        if (out / slug(name) / "result.json").exists()
    ]
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    entries, runs = [], []
    for result in results:
        for row in result["rows"]:
            file = out / slug(result["name"]) / row["file"]
            call = bhvit.Session(file) if file.suffix == ".bhv" else _onnx(file)
            entries.append((result, row, file))
            runs.append(
                Run(
                    name=f"{result['name']} {row['what']}",
                    isa="",
                    threads=1,
                    batch=1,
                    call=lambda call=call: call(image),
                )
            )
    timings = measure(runs, 2.0)
    rows = [
        [
            result["name"],
            row["what"],
            f"{row['top1']:.2%}",
            f"{file.stat().st_size / 1e6:.2f}",
            f"{timing.median:.3f}",
            f"{row['ops'] / 1e6:.2f}",
            f"{result['minutes']:.0f}",
        ]
        for (result, row, file), timing in zip(entries, timings, strict=True)
    ]
    header = ["Network", "Run as", "Top-1", "File, MB", "ms an image", "OPs, M", "Training, min"]
    first = results[0]
    text = f"""CIFAR-10 (JPEG copies), 32×32: {first["epochs"]} epochs of the recipe `cifar10` from scratch on one \
thread, seed {first["seed"]}, the last epoch's weights, 10,000 test images measured once with the file in the row. \
Batch 1, one thread, medians of runs in turns. OPs are binary multiply-accumulates / 64 + others; of int8 the same \
count as of float32. Training minutes are of a busy machine.

{markdown(header, rows)}"""
    write_results(Path(__file__).with_name("results.md"), "BHViT and others at an equal budget", text)


if __name__ == "__main__":
    main()
