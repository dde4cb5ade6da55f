"""Calibrate a bundled model, its checkpoint and packed file; update its card.

    python -m benchmarks.accuracy.confidence --data ../shared/data/cifar10 --unknown ../shared/data/tiny-imagenet

Run it after `package`. The temperature and the scores come from the validation images, which are held out of the
training images; the card's figures from the test images, and from images of other things. Where there are no test
images, every second validation image is fitted to and the others are measured with.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

import numpy as np
import safetensors.torch
from benchmarks.accuracy.package import size_and_digest
from benchmarks.common import markdown

import bhvit
from bhvit.bundled import DEFAULT, FOLDER
from bhvit.calibration import MISS_RATE, SCORES, Calibration, auroc, fit, scores
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.metrics import evaluate, predict_all
from bhvit.files import write_atomically
from bhvit.format import file as bhv_file
from bhvit.format.checkpoint import CheckpointDescription
from bhvit.models.base.weights import read_weights

HEADING = "## Confidence"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT, help="a bundled name")
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--unknown", default="../shared/data/tiny-imagenet", help="images of other things")
    parser.add_argument("--unknown-split", default="validation")
    parser.add_argument("--unknown-name", default="Tiny-ImageNet", help="what the card calls these images")
    args = parser.parse_args()
    checkpoint, packed = FOLDER / f"{args.model}.safetensors", FOLDER / f"{args.model}.bhv"
    session, preprocess = bhvit.Session(packed), bhv_file.read(packed).preprocess
    names = session.class_names
    fitted, measured, images = _images(args.data, names)
    validation = evaluate(session, fitted, preprocess)
    calibration = fit(validation.logits, validation.labels)
    _write(checkpoint, packed, calibration)

    test = evaluate(session, measured, preprocess)
    strange, _ = predict_all(session, open_dataset(args.unknown, args.unknown_split), preprocess)
    after = test.calibrated(calibration)
    rows = [
        ["Calibration error, 15 bins", f"{test.calibration_error:.2%}", f"{after['calibration_error']:.2%}"],
        ["Cross entropy, nats", f"{test.cross_entropy:.4f}", f"{after['cross_entropy']:.4f}"],
    ]
    areas = ", ".join(f"{auroc(scores(test.logits, s), scores(strange, s)):.1%} by {s}" for s in SCORES)
    found = [
        [f"{rate:.0%}", f"{calibration.unknown(test.logits, rate).mean():.1%}", f"{share:.1%}"]
        for rate in (0.01, MISS_RATE, 0.1, 0.2)
        for share in (float(np.mean(calibration.unknown(strange, rate))),)
    ]
    section = f"""{HEADING}

Temperature {calibration.temperature:g}, fitted to {len(validation.labels):,} validation images; \
`bhvit classify` applies it. On {images}:

{markdown(["", "As they are", "With the temperature"], rows)}

`bhvit classify --unknown` tells these from {len(strange):,} images of {args.unknown_name} with an AUROC of \
{areas} (50 % is guessing; some of those images may show things that the model knows):

{markdown(["Miss rate asked for", "Known images taken for unknown", f"{args.unknown_name} found"], found)}

"""
    card = FOLDER / f"{args.model}.md"
    text = re.sub(rf"{HEADING}\n.*?(?=^## )", "", card.read_text(), flags=re.S | re.M)
    text = text.replace("## Training", f"{section}## Training", 1)
    for path in (packed, checkpoint):
        text = re.sub(
            rf"\| `{path.name}` \| [\d,]+ bytes, sha256 `[0-9a-f]+`", f"| `{path.name}` | {size_and_digest(path)}", text
        )
    card.write_text(text)
    print(section)


def _images(data: str, names: tuple[str, ...]) -> tuple[Dataset, Dataset, str]:
    """Images to fit to, images to measure with, and what those are; without a test split, halves of the validation."""
    validation, test = (open_dataset(data, split, class_names=names) for split in ("validation", "test"))
    if test.split == "test":
        return validation, test, "the test images"
    return (
        validation.subset(range(0, len(validation), 2)),
        validation.subset(range(1, len(validation), 2)),
        "the others",
    )


def _write(checkpoint: Path, packed: Path, calibration: Calibration) -> None:
    """Put a calibration into a checkpoint whose latent weights are in float16, and pack that again."""
    tensors, metadata = read_weights(checkpoint)
    described = CheckpointDescription.from_metadata(metadata, checkpoint)
    changed = dataclasses.replace(described, calibration=calibration)
    write_atomically(checkpoint, safetensors.torch.save(tensors, changed.to_metadata()))
    bhvit.pack(bhvit.load_checkpoint(checkpoint), packed, force=True)


if __name__ == "__main__":
    main()
