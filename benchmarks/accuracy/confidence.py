"""Calibrate a bundled model, its checkpoint and its packed file, and write what was found into its card.

    python -m benchmarks.accuracy.confidence --data ../shared/data/cifar10 --unknown ../shared/data/tiny-imagenet

Run it after `package`. The temperature and the scores come from the validation images, which are held out of the
training images; the card's figures from the test images, and from images of other things.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import safetensors.torch
from benchmarks.common import markdown

import bhvit
from bhvit.bundled import DEFAULT, FOLDER
from bhvit.calibration import MISS_RATE, SCORES, Calibration, auroc, fit, scores
from bhvit.data.dataset import open_dataset
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
    args = parser.parse_args()
    checkpoint, packed = FOLDER / f"{args.model}.safetensors", FOLDER / f"{args.model}.bhv"
    session, preprocess = bhvit.Session(packed), bhv_file.read(packed).preprocess
    names = session.class_names
    validation = evaluate(session, open_dataset(args.data, "validation", class_names=names), preprocess)
    calibration = fit(validation.logits, validation.labels)
    _write(checkpoint, packed, calibration)

    test = evaluate(session, open_dataset(args.data, "test", class_names=names), preprocess)
    strange, _ = predict_all(session, open_dataset(args.unknown, "validation"), preprocess)
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

Temperature {calibration.temperature:g}, fitted to the {len(validation.labels):,} validation images; \
`bhvit classify` applies it. On the test images:

{markdown(["", "As they are", "With the temperature"], rows)}

`bhvit classify --unknown` tells the test images from {len(strange):,} images of Tiny-ImageNet with an AUROC of \
{areas} (50 % is guessing; some of those images show things that the model knows):

{markdown(["Miss rate asked for", "Test images taken for unknown", "Tiny-ImageNet found"], found)}

"""
    card = FOLDER / f"{args.model}.md"
    text = re.sub(rf"{HEADING}\n.*?(?=^## )", "", card.read_text(), flags=re.S | re.M)
    text = text.replace("## Training", f"{section}## Training", 1)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    text = re.sub(
        rf"\| `{packed.name}` \| [\d,]+ bytes, sha256 `[0-9a-f]+` \|",
        f"| `{packed.name}` | {packed.stat().st_size:,} bytes, sha256 `{digest}` |",
        text,
    )
    text = re.sub(
        rf"\| `{checkpoint.name}` \| [\d,]+ bytes", f"| `{checkpoint.name}` | {checkpoint.stat().st_size:,} bytes", text
    )
    card.write_text(text)
    print(section)


def _write(checkpoint: Path, packed: Path, calibration: Calibration) -> None:
    """Put a calibration into a checkpoint whose latent weights are in float16, and pack that again."""
    tensors, metadata = read_weights(checkpoint)
    described = CheckpointDescription.from_metadata(metadata, checkpoint)
    changed = dataclasses.replace(described, calibration=calibration)
    write_atomically(checkpoint, safetensors.torch.save(tensors, changed.to_metadata()))
    bhvit.pack(bhvit.load_checkpoint(checkpoint), packed, force=True)


if __name__ == "__main__":
    main()
