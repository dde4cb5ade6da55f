"""Train on CIFAR-10, pack, and measure both models on the test images.

    python -m benchmarks.natural.cifar10 --data ../shared/data/cifar10 --out runs/cifar10 --epochs 8

Writes `results.md` next to this file. --resume continues an interrupted training; `--data cifar10`
downloads the original images instead of reading parquet files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from benchmarks.common import markdown, write_results

from bhvit.data.dataset import open_dataset
from bhvit.models import load_checkpoint
from bhvit.packing import pack
from bhvit.train import TrainConfig, load_recipe, train
from bhvit.verification.compare import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="parquet folder, or cifar10 to download")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="run folder")
    parser.add_argument("--model", default="bhvit_nano")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of training; 0: PyTorch's choice")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    settings = load_recipe(args.recipe) | {"data": args.data, "model": args.model, "out": str(args.out)}
    config = TrainConfig.from_dict(settings | {"epochs": args.epochs, "threads": args.threads})
    result = train(config, resume=args.resume)

    # The last epoch's model: nothing was chosen by looking at the test images.
    packed = args.out / "model.bhv"
    model = load_checkpoint(result.last)
    test = open_dataset(args.data, split="test")
    rows, ops = [], []
    for float_storage in ("float32", "mixed", "float16"):
        pack(model, packed, float_storage=float_storage, force=True)  # type: ignore[arg-type]
        found = compare(result.last, packed, test, threads=2)
        rows.append(
            [
                f"packed, {float_storage} float_storage",
                f"{packed.stat().st_size / 1e6:.2f} MB",
                f"{found.native.top1:.2%}",
                f"{found.agreement:.2%}",
                f"{found.logit_difference:.3g}",
                "yes" if found.reference_parts_at is None else f"no, at {found.reference_parts_at}",
            ]
        )
        ops.append(found.parts_at.name if found.parts_at else "none")
    rows.insert(
        0, ["PyTorch, float32", f"{result.last.stat().st_size / 1e6:.2f} MB", f"{found.torch.top1:.2%}", "", "", ""]
    )
    minutes = sum(line["seconds"] for line in result.log) / 60
    header = [
        "Model",
        "File",
        "Top-1",
        "Top-1 agreement with PyTorch",
        "Largest logit difference",
        "Equals NumPy reference",
    ]
    text = f"""{args.model}, {config.epochs} epochs of the recipe `{args.recipe}` in {minutes:.1f} minutes \
on {torch.get_num_threads()} CPU thread(s), seed {config.seed}; {len(test)} test images, measured once, \
with the last epoch's weights.

{markdown(header, rows)}

First op after which PyTorch and the packed file differ beyond rounding on four traced images: \
{ops[0]} (float32 float_storage), {ops[1]} (mixed, the default), {ops[2]} (float16).

Validation accuracy by epoch: {", ".join(f"{line['val_top1']:.2%}" for line in result.log)}.

Settings: `{json.dumps({k: v for k, v in config.to_dict().items() if k not in ("out", "data")})}`"""
    write_results(Path(__file__).with_name("results.md"), f"{args.model} on CIFAR-10", text)


if __name__ == "__main__":
    main()
