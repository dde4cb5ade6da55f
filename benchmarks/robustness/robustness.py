"""Accuracy under corruptions: the bundled model, and full-precision networks next to it.

    python -m benchmarks.robustness.robustness --data ../shared/data/cifar10 --images 2000
    python -m benchmarks.robustness.robustness --models cifar10 runs/twin/last.safetensors

Writes `results.md` next to this file. Every model sees the same corrupted images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.common import markdown, write_results

from bhvit.data.corruptions import CORRUPTIONS, STRENGTHS, Robustness, robustness
from bhvit.data.dataset import evenly, open_dataset
from bhvit.verification.predictors import open_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--models", nargs="+", default=["cifar10"], help="bundled names, .bhv files, checkpoints")
    parser.add_argument("--images", type=int, default=2000, help="test images, evenly chosen")
    args = parser.parse_args()
    found: dict[str, Robustness] = {}
    for name in args.models:
        model = open_model(name, 1)
        dataset = open_dataset(args.data, "test", class_names=model.class_names)
        dataset = dataset.subset(evenly(len(dataset), args.images))
        found[name] = robustness(model.predict, dataset, model.preprocess)
        print(name, f"{found[name].clean:.2%} {found[name].mean:.2%}", flush=True)
    summary = [
        [name, f"{one.clean:.2%}", f"{one.mean:.2%}", *(f"{values.mean():.1%}" for values in one.accuracy)]
        for name, one in found.items()
    ]
    tables = "\n\n".join(
        f"## {name}\n\n{markdown(['Corruption', *(f'Strength {s}' for s in STRENGTHS), 'Mean'], one.rows())}"
        for name, one in found.items()
    )
    images = next(iter(found.values())).images
    text = f"""Top-1 on {images} test images, as they are, and under seven corruptions at five \
strengths, those of CIFAR-10-C for small images; means over the strengths.

{markdown(["Model", "As they are", "Corrupted, mean", *CORRUPTIONS], summary)}

{tables}"""
    write_results(Path(__file__).with_name("results.md"), "Accuracy under corruptions", text)


if __name__ == "__main__":
    main()
