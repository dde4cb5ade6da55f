"""Compare fine-tuning the bundled checkpoint with training from scratch, on a folder of new images.

    python -m benchmarks.accuracy.finetune --data ../shared/data/tiny-imagenet --out runs/finetune

Both have the same budget. The folder is made of ten of Tiny-ImageNet's classes, none of them one of CIFAR-10's: 200
training images and 50 test images each. Writes `finetune.md`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.common import markdown, write_results

from bhvit.data.dataset import open_dataset
from bhvit.train import TrainConfig, load_recipe, train

CLASSES = tuple(range(0, 200, 20))
EPOCHS = 10
STARTS = {
    "from the bundled `cifar10`, recipe `finetune`": ("finetune", {"init": "cifar10"}),
    "from scratch, the same but for `lr=2e-3`, `layer_decay=1`": ("finetune", {"layer_decay": 1.0, "lr": 2e-3}),
    "from scratch, recipe `small`": ("small", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/tiny-imagenet")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    folder = args.out / "images"
    names = _write_folder(args.data, folder)
    rows = []
    for what, (recipe, changes) in STARTS.items():
        accuracies, minutes = [], []
        for seed in args.seeds:
            config = TrainConfig.from_dict(
                {
                    "model": "bhvit_nano",
                    "batch_size": 64,
                    **load_recipe(recipe),
                    "data": str(folder),
                    "out": str(args.out / f"{recipe}-{len(rows)}-{seed}"),
                    "epochs": EPOCHS,
                    "warmup_epochs": 1.0,
                    "seed": seed,
                    "threads": args.threads,
                    "workers": 0,
                    "img_size": 32,
                    **changes,
                }
            )
            result = train(config, force=True, quiet=True)
            accuracies.append(result.metrics.top1)
            minutes.append(sum(line["seconds"] for line in result.log) / 60)
            print(what, seed, accuracies[-1], flush=True)
        spread = f"{statistics.stdev(accuracies):.1%}" if len(accuracies) > 1 else "one seed"
        rows.append([what, f"{statistics.mean(accuracies):.1%}", spread, f"{statistics.mean(minutes):.1f}"])
    text = f"""`bhvit_nano` at 32×32 on a folder of {len(names)} classes ({", ".join(names)}): 200 training images \
and 50 test images each. {EPOCHS} epochs, batches of 64 unless the recipe says so, the last epoch's weights, seeds \
{", ".join(map(str, args.seeds))}.

{markdown(["Start", "Top-1, mean", "Standard deviation", "Minutes a run"], rows)}"""
    write_results(Path(__file__).with_name("finetune.md"), "Fine-tuning the bundled model", text)


def _write_folder(data: str, folder: Path) -> list[str]:
    """JPEG files as folder/train/CLASS/n.jpg and folder/validation/CLASS/n.jpg; the names of the classes."""
    names: list[str] = []
    for split in ("train", "validation"):
        dataset = open_dataset(data, split, classes_file=None)
        words = [line.split("\t")[-1].split(",")[0].strip() for line in (Path(data) / "classes.txt").open()]
        names = [words[label].replace(" ", "-") for label in CLASSES]
        counts = dict.fromkeys(CLASSES, 0)
        for index, label in enumerate(dataset.labels):
            if label in counts:
                target = folder / split / names[CLASSES.index(label)] / f"{counts[label]:04}.jpg"
                counts[label] += 1
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    dataset.image(index).convert("RGB").save(target, quality=95)
    return names


if __name__ == "__main__":
    main()
