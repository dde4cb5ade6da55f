"""Measure the accuracy of JPEG files decoded at a fraction of their size.

The images are photographs of one's own classes.

    python -m benchmarks.pipeline.draft --data PHOTOS

The bundled model's features (the grid before its head, averaged) of the training images train a logistic regression,
which is tested on the test images: once for each value of `draft`, alike in training and testing as `bhvit train` does
it, and once trained without and tested with it. Photographs must be several times larger than the model's 32×32.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.common import add_page, markdown, write_results
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bhvit import Session
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.data.metrics import decode

DRAFTS = (0.0, 2.0, 1.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="photographs, as for `bhvit train`, with test images")
    add_page(parser, Path(__file__).with_name("draft.md"))
    args = parser.parse_args()
    session = Session("cifar10")
    train, test = open_dataset(args.data, "train"), open_dataset(args.data, "test")
    first = {}
    rows = []
    for draft in DRAFTS:
        found = {name: features(session, data, draft) for name, data in (("train", train), ("test", test))}
        first = first or found
        alike = probe(found["train"], train.labels).predict(found["test"])
        plain = probe(first["train"], train.labels).predict(found["test"])
        right = alike == test.labels
        error = 100 * np.sqrt(right.mean() * (1 - right.mean()) / len(right))
        rows.append(
            [
                f"{draft:g}" if draft else "all pixels",
                f"{100 * right.mean():.1f} ± {error:.1f}",
                f"{100 * (plain == test.labels).mean():.1f}",
                f"{100 * (plain == probe(first['train'], train.labels).predict(first['test'])).mean():.1f}",
            ]
        )
    width, height = test.image(0).size
    header = (
        "Draft",
        "Top-1 %, trained and tested with it",
        "Top-1 %, only tested with it",
        "Same answer as without %",
    )
    text = (
        f"{len(train)} training and {len(test)} test photographs of {width}×{height}, {len(test.class_names)} classes; "
    )
    text += "± is one standard error of the test images.\n\n" + markdown(header, rows)
    write_results(args.page, "Accuracy with JPEG files decoded at a fraction of their size", text)


def features(session: Session, data: Dataset, draft: float) -> npt.NDArray[np.float32]:
    """(N, C) of the images' last grid before the head."""
    preprocess = dataclasses.replace(session.preprocessing, draft=draft)
    images = preprocess.normalize(decode(data, preprocess, range(len(data))))
    grids = [session.program.trace(image)[-2][1] for image in images]
    return np.stack([grid.mean(axis=(0, 1)) for grid in grids])


def probe(inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> LogisticRegression:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(inputs, labels)


if __name__ == "__main__":
    main()
