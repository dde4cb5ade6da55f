"""Photographs of one's own: what `bhvit train --data photos` reaches, and what changes of its settings are worth.

    python -m benchmarks.accuracy.finetune --data ../shared/data/trashnet/trashnet-192x144.zip --out runs/finetune
    python -m benchmarks.accuracy.finetune --data ../shared/data/trashnet/trashnet-192x144.zip --probe
    python -m benchmarks.accuracy.finetune --out runs/finetune --table

The first trains what has no result yet in --out, and continues what was stopped; `--epochs` shortens all runs alike.
The second asks what the bundled model sees at several sizes, without training it. The third takes new results into
`logs/finetune.jsonl`, and writes `finetune.md` of all that is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.accuracy.contenders import slug
from benchmarks.common import markdown, write_results
from torch.optim.swa_utils import update_bn

import bhvit
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.metrics import Floats, decode, metrics
from bhvit.image import Preprocess
from bhvit.models import create_model, load_checkpoint
from bhvit.train import TrainConfig, auto, load_recipe, train
from bhvit.train.warm_start import settings_of, start_from

PLAIN = "the plain command"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "learning rate 5e-4": {"lr": 5e-4},
    "at the bundled model's size, 64x64": {"img_size": [64, 64]},
    "at its size, learning rate 5e-4": {"img_size": [64, 64], "lr": 5e-4},
    "with MixUp 0.2 and CutMix 1": {"mixup": 0.2, "cutmix": 1.0},
    "with RandAugment 9": {"rand_augment": 9},
    "with crops down to a tenth of the area": {"scale_min": 0.1},
    "from scratch, recipe `small`": {
        **load_recipe("small"),
        "epochs": None,
        "init": None,
        "layer_decay": 1.0,
        "augment": "resized-crop",
    },
}
"""Changes of the settings that the images choose; None: as chosen."""
SIZES = ((64, 64), (96, 96), (96, 128))
START = "tinyimagenet"
HERE = Path(__file__).parent
RESULTS, PROBE, PAGE = HERE / "logs" / "finetune.jsonl", HERE / "logs" / "finetune-probe.json", HERE / "finetune.md"

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/trashnet/trashnet-192x144.zip", help="with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--epochs", type=int, help="of every run; default: as many as the images choose")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME")
    parser.add_argument("--probe", action="store_true", help="features of the bundled model at several sizes")
    parser.add_argument("--table", action="store_true", help="write the page of what there is")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.probe:
        PROBE.write_text(json.dumps([probe(args.data, size) for size in SIZES], indent=1) + "\n")
    elif args.table:
        collect(args.out)
        _page()
    else:
        for seed in args.seeds:
            for name in args.only:
                run(name, args.data, args.out, seed, args.epochs)


def run(name: str, data: str, out: Path, seed: int, epochs: int | None) -> None:
    """Train a variant, or what is left of it, and keep its result in its folder."""
    config = settings(name, data, seed, epochs)
    folder = out / f"{slug(name)}-{config['epochs']}-{seed}"
    if (folder / "result.json").exists():
        return
    begun, before = (folder / "config.json").exists(), time.process_time()
    trained = train(TrainConfig.from_dict({**config, "out": str(folder)}), resume=begun, force=not begun, quiet=True)
    minutes = None if begun else round((time.process_time() - before) / 60, 1)  # of a whole run only
    test = open_dataset(data, "test")
    result = {
        "name": name,
        "epochs": config["epochs"],
        "trained": len(trained.log),
        "seed": seed,
        "size": config["img_size"],
        "images": [len(open_dataset(data, "train")), len(test)],
        "last": accuracies(trained.last, test, folder),
        "best": accuracies(trained.best, test, folder),
        "training_top1": trained.log[-1]["train_top1"],
        "cpu_minutes": minutes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    print(result, flush=True)


def settings(name: str, data: str, seed: int, epochs: int | None) -> dict[str, Any]:
    """Return the settings of a variant: those that the images choose, with its changes."""
    chosen = auto.chosen(open_dataset(data, "train"))
    changes = {key: value for key, value in VARIANTS[name].items() if value is not None or key == "init"}
    given = {"data": data, "seed": seed, "threads": 1, "workers": 0}
    if epochs is not None:
        given |= {"epochs": epochs, "warmup_epochs": min(chosen["warmup_epochs"], epochs / 10)}
    return {**chosen, **changes, **given}


def accuracies(checkpoint: Path, test: Dataset, folder: Path) -> list[float]:
    """The packed model's accuracy on the test images, alone and with the mirror image of each."""
    session = _packed(load_checkpoint(checkpoint), folder)
    pixels = decode(test, session.preprocessing, range(len(test)))
    images = session.preprocessing.normalize(pixels)
    mirrored = session.preprocessing.normalize(np.ascontiguousarray(pixels[:, :, ::-1]))
    alone: Floats = session(images)
    both = alone + session(mirrored)
    return [metrics(logits, test.labels, test.class_names).top1 for logits in (alone, both)]


def _packed(model: bhvit.BHViT, folder: Path) -> bhvit.Session:
    bhvit.pack(model, folder / "model.bhv", force=True)
    return bhvit.Session(folder / "model.bhv", threads=1)


def probe(data: str, size: tuple[int, int]) -> Result:
    """How well a linear classifier tells the classes by what the bundled model, as it is, sees at `size`.

    Norm statistics are those of training images at that size. The classifier has images and their mirror images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    start = load_checkpoint(START)
    fields = {**settings_of(START), "img_size": size}
    model = create_model(fields.pop("model"), in_chans=fields.pop("channels"), num_classes=200, **fields)
    start_from(model, start, START)
    preprocess = Preprocess.usual(size, 3, crop=1.0)
    splits = [open_dataset(data, split) for split in ("train", "test")]
    pixels = [decode(split, preprocess, range(len(split))) for split in splits]
    some = np.random.default_rng(0).permutation(len(pixels[0]))[:512].reshape(8, 64)
    with torch.no_grad():
        update_bn((torch.from_numpy(preprocess.normalize(pixels[0][part])) for part in some), model)
    model.eval()
    model.preprocess, model.class_names = preprocess, start.class_names
    with tempfile.TemporaryDirectory() as folder:
        session = _packed(model, Path(folder))
        seen = [
            session.embed(preprocess.normalize(np.ascontiguousarray(part)))
            for images in pixels
            for part in (images, images[:, :, ::-1])
        ]
    scaler = StandardScaler().fit(seen[0])
    train_images, mirrored, test_images, mirrored_test = (scaler.transform(features) for features in seen)
    labels = splits[0].labels
    classifier = LogisticRegression(C=0.003, max_iter=300)
    classifier.fit(np.concatenate([train_images, mirrored]), np.concatenate([labels, labels]))
    alone = classifier.predict_proba(test_images)
    both = alone + classifier.predict_proba(mirrored_test)
    top1 = [float((found.argmax(axis=1) == splits[1].labels).mean()) for found in (alone, both)]
    print(size, top1, flush=True)
    return {"size": list(size), "top1": top1}


def collect(out: Path) -> None:
    """Take the results of `out` into RESULTS; one of the same variant, epochs and seed replaces the older one."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    found += [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    order = list(VARIANTS)
    keyed = {(order.index(row["name"]), row["epochs"], row["seed"]): row for row in found}
    RESULTS.write_text("".join(json.dumps(keyed[key]) + "\n" for key in sorted(keyed)))


def rows(results: list[Result]) -> list[list[str]]:
    """The table of runs: a row for each variant and number of epochs."""
    table = []
    for name in VARIANTS:
        own = [result for result in results if result["name"] == name]
        if not own:
            table.append([name, "not trained yet", *[""] * 8])
        for epochs in sorted({result["epochs"] for result in own}):
            group = [result for result in own if result["epochs"] == epochs]
            best = [100 * result["best"][0] for result in group]
            minutes = [result["cpu_minutes"] for result in group if result["cpu_minutes"] is not None]
            table.append(
                [
                    name,
                    "x".join(map(str, group[0]["size"])),
                    " ".join(str(result["trained"]) for result in group) + f" of {epochs}",
                    " ".join(str(result["seed"]) for result in group),
                    f"{statistics.mean(best):.1f} %",
                    f"{statistics.stdev(best):.1f}" if len(best) > 1 else "one seed",
                    f"{100 * statistics.mean(result['best'][1] for result in group):.1f} %",
                    f"{100 * statistics.mean(result['last'][0] for result in group):.1f} %",
                    f"{100 * statistics.mean(result['training_top1'] for result in group):.1f} %",
                    f"{statistics.mean(minutes):.1f}" if minutes else "",
                ]
            )
    return table


def _page() -> None:
    results = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    header = (
        "Settings | Input | Epochs | Seeds | Test top-1 | Spread, points | With mirror images | Last epoch | "
        "Training images, augmented | CPU minutes"
    ).split(" | ")
    probes = [
        ["x".join(map(str, row["size"])), *(f"{100 * top1:.1f} %" for top1 in row["top1"])]
        for row in json.loads(PROBE.read_text())
    ]
    images = results[0]["images"] if results else [1380, 495]
    text = f"""TrashNet, photographs of 192×144 pixels in 6 classes: {images[0]:,} training images, {images[1]} test \
images; 153 more choose the epoch, "test top-1" is of that epoch's model, packed. One thread. Rows change one thing of \
what `bhvit train --data photos` chooses; short runs say less about strong augmentation, which needs time. Epochs are \
those done of a run's: the learning rate of one that was stopped is still high.

{markdown(header, rows(results))}

What the bundled `{START}` sees without any training of its own, by the size of its input: test accuracy of a linear \
classifier of its features. 64×64 is its own size, a square from the middle of the photographs; 96×128 has all of them.

{markdown(["Input", "Test top-1", "With mirror images"], probes)}"""
    write_results(PAGE, "Training on photographs of one's own", text)


if __name__ == "__main__":
    main()
