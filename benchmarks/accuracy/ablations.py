"""Measure each part and each way of training on CIFAR-10, at an equal budget.

Each row changes one thing.

    python -m benchmarks.accuracy.ablations --data ../shared/data/cifar10 --out runs/ablations --epochs 2 --seeds 0 1
    python -m benchmarks.accuracy.ablations --out runs/ablations --table

The first trains what is not yet trained in --out; the second writes `ablations.md` of all that is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.contenders import slug
from benchmarks.accuracy.front import packed_top1
from benchmarks.common import markdown, write_results

from bhvit.models import load_checkpoint
from bhvit.train import TrainConfig, load_recipe, train

Settings = dict[str, Any]
BASE = "BHViT nano as it is"


def _halves(first: Settings) -> Callable[[int], Settings]:
    """Train half of the epochs with other settings, and the rest as usual.

    The second half starts where the first ends, at half the peak rate.
    """

    def phases(epochs: int) -> Settings:
        return {
            "phases.0": {"epochs": epochs // 2, "warmup_epochs": 0.5, **first},
            "phases.1": {"epochs": epochs - epochs // 2, "lr": 1e-3, "warmup_epochs": 0, "start": "last"},
        }

    return phases


VARIANTS: dict[str, Callable[[int], Settings]] = {
    BASE: lambda epochs: {},
    "without shifts": lambda epochs: {"shifts": []},
    "one-bit attention instead of the decomposition": lambda epochs: {"attention": "one_bit"},
    "with distillation from the bundled model": lambda epochs: {"teacher": "cifar10"},
    "with the regularisation loss, 0.1": lambda epochs: {"regularisation": 0.1},
    "staged: binary activations first, then weights too": _halves({"weight_bits": 32}),
    "full-precision warm start": _halves({"weight_bits": 32, "activation_bits": 32}),
    "with oscillation dampening, 1e-4": lambda epochs: {"dampening": 1e-4},
    "with position maps and classifier in 8 bits": lambda epochs: {"float_bits": 8},
}
"""Settings by number of epochs, in addition to those of the recipe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="parquet folder, or cifar10 to download")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--epochs", type=int, default=2, help="an even number")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--table", action="store_true", help="write the page of what is trained")
    args = parser.parse_args()
    if args.table:
        _table(args.out)
        return
    for seed in args.seeds:
        for name in args.only:
            folder = args.out / f"{slug(name)}-{seed}"
            if not (folder / "result.json").exists():
                _row(name, {"data": args.data, "epochs": args.epochs, "seed": seed}, folder)


def _row(name: str, settings: Settings, folder: Path) -> None:
    config = TrainConfig.from_dict(
        {**load_recipe("cifar10"), "threads": 1, **settings, **VARIANTS[name](settings["epochs"]), "out": str(folder)}
    )
    begin = time.perf_counter()
    trained = train(config, force=True, quiet=True)
    minutes = (time.perf_counter() - begin) / 60
    _, top1 = packed_top1(load_checkpoint(trained.last), folder, config.data)
    result = {"name": name, "epochs": config.epochs, "seed": config.seed, "top1": top1, "minutes": minutes}
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    print(result, flush=True)


def _table(out: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    means = {name: [row for row in found if row["name"] == name] for name in VARIANTS}
    base = {row["seed"]: row["top1"] for row in means[BASE]}
    rows = []
    for name, results in means.items():
        if not results:
            continue
        top1 = [row["top1"] for row in results]
        gains = [row["top1"] - base[row["seed"]] for row in results if row["seed"] in base]
        rows.append(
            [
                name,
                " ".join(str(row["seed"]) for row in results),
                f"{statistics.mean(top1):.2%}",
                f"{100 * statistics.stdev(top1):.2f}" if len(top1) > 1 else "one seed",
                "" if name == BASE or not gains else f"{100 * statistics.mean(gains):+.2f}",
                "" if name == BASE or len(gains) < 2 else f"{100 * statistics.stdev(gains):.2f}",
                f"{min(row['minutes'] for row in results):.1f}",
            ]
        )
    header = ["Trained", "Seeds", "Top-1, mean", "Spread, points", "Against the first row, points", "Spread", "Minutes"]
    epochs = " and ".join(str(epochs) for epochs in sorted({row["epochs"] for row in found}))
    text = f"""CIFAR-10 (JPEG copies), 32×32, `bhvit_nano`: {epochs} epochs in all from scratch with the settings of \
the recipe `cifar10`, on one thread; the last epoch's weights, packed, on the 10,000 test images. Spread: standard \
deviation over seeds; differences are of rows with the same seed, and their spread is theirs. Minutes: the fastest \
seed's. The teacher is the bundled model.

{markdown(header, rows)}"""
    write_results(Path(__file__).with_name("ablations.md"), "What each part is worth at an equal, small budget", text)


if __name__ == "__main__":
    main()
