"""Measure what fewer bits for position maps and the classifier cost.

A trained model is packed in each way, and trained on for one epoch with and without rounding them to 8 bits.

    python -m benchmarks.accuracy.float_storage --data ../shared/data/cifar10 --out runs/float_storage
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from benchmarks.common import markdown, write_results

import bhvit
from bhvit.bundled import DEFAULT
from bhvit.data.dataset import open_dataset
from bhvit.data.metrics import Metrics, agreement, evaluate
from bhvit.format.float_storage import FloatStorage
from bhvit.models import BHViT, load_checkpoint
from bhvit.train import TrainConfig, train

KINDS = tuple(reversed(get_args(FloatStorage)))
"""float32 first: the others are compared with it."""
ROUNDED = "one more epoch with `float_bits=8`"
MODELS: dict[str, dict[str, Any]] = {"as bundled": {}, "one more epoch": {}, ROUNDED: {"float_bits": 8}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="parquet folder, or cifar10 to download")
    parser.add_argument("--out", type=Path, default=Path("runs/float_storage"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, (name, overrides) in enumerate(MODELS.items()):
        model = load_checkpoint(DEFAULT) if index == 0 else _trained(args.data, args.out / str(index), overrides)
        kinds: tuple[FloatStorage, ...] = ("float32", "int8") if index else KINDS
        rows += _packed(name, model, kinds, args)
    header = ["Model", "Position maps, classifier", "File, MB", "Top-1", "Top-1 agreement with float32"]
    sizes = [
        [
            name,
            f"{len(_bytes(bhvit.create_model(name).eval())) / 1e6:.2f}",
            f"{len(_bytes(bhvit.create_model(name, float_bits=8).eval())) / 1e6:.2f}",
        ]
        for name in ("bhvit_tiny", "bhvit_small", "binaryvit_small")
    ]
    text = f"""The bundled model, and the same trained on for one epoch at a peak rate of 1e-4; the 10,000 test \
images, JPEG copies of CIFAR-10's.

{markdown(header, rows)}

Files of 1000 classes at 224×224, MB:

{markdown(["Model", "mixed, the default", "trained with `float_bits=8`"], sizes)}"""
    write_results(Path(__file__).with_name("float_storage.md"), "Position maps and classifier in fewer bits", text)


def _trained(data: str, folder: Path, overrides: dict[str, Any]) -> BHViT:
    config = TrainConfig.from_dict(
        {
            **bhvit.train.load_recipe("cifar10"),
            "data": data,
            "out": str(folder),
            "init": DEFAULT,
            "epochs": 1,
            "warmup_epochs": 0.1,
            "lr": 1e-4,
            "threads": 1,
            **overrides,
        }
    )
    return load_checkpoint(train(config, force=True, quiet=True).last)


def _packed(name: str, model: BHViT, kinds: tuple[FloatStorage, ...], args: argparse.Namespace) -> list[list[object]]:
    exact: Metrics | None = None
    rows: list[list[object]] = []
    for kind in kinds:
        path = args.out / "model.bhv"
        bhvit.pack(model, path, float_storage=kind, force=True)
        session = bhvit.Session(path)
        found = evaluate(
            session, open_dataset(args.data, "test", class_names=session.class_names), session.preprocessing
        )
        exact = exact or found
        rows.append(
            [name, kind, f"{path.stat().st_size / 1e6:.3f}", f"{found.top1:.2%}", f"{agreement(found, exact):.2%}"]
        )
        print(rows[-1], flush=True)
    return rows


def _bytes(model: BHViT) -> bytes:
    return bhvit.format.to_bytes(bhvit.packing.packed_model(model))


if __name__ == "__main__":
    main()
