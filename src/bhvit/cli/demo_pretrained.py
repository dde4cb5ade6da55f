"""`bhvit demo --pretrained`: the bundled model on labelled images, without any training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import bundled
from ..data.dataset import open_dataset, splits_of
from ..data.metrics import evaluate
from ..data.sources import BUILT_IN
from ..errors import counted
from ..format import file as bhv_file
from ..runtime import Session, reference
from ..system import allowed_cores
from ..text import describe, size_text
from ..timing import BUSY, busy, measure
from ..timing.runs import native_runs
from .bench import comparisons, timing_table
from .console import Progress, part_text, table, usual_split

SAMPLES = 8
REFERENCE_IMAGES = 4


def demo_pretrained(data: str) -> int:
    """Evaluate, check, classify and time the bundled model.

    Returns 1 if engine and reference differ, else 0. Raises UserError for data that cannot be read or has other
    classes.
    """
    path = bundled.find(bundled.DEFAULT, ".bhv")
    file = bhv_file.read(path)
    session = Session(path, threads=allowed_cores())
    split = "test" if data in BUILT_IN else usual_split(splits_of(data))
    dataset = open_dataset(data, split, class_names=session.class_names)
    print(f"{describe(file.spec)}, {size_text(path.stat().st_size)}: {path}")
    print(f"its card: {path.with_suffix('.md')}")

    progress = Progress("evaluating")
    metrics = evaluate(session, dataset, file.preprocess, progress=progress)
    progress.clear()
    print(
        f"\n[1/4] {counted(len(dataset), 'image')} of {data}{part_text(dataset.split, None)}: top-1 "
        f"{metrics.top1:.2%}, top-5 {metrics.top5:.2%}"
    )

    checked = min(REFERENCE_IMAGES, len(dataset))
    images = np.concatenate([session.preprocess(dataset.image(index)) for index in range(checked)])
    same = bool(np.array_equal(session(images), reference.run(file, images)))
    print(
        f"[2/4] native engine and NumPy reference on {checked} of them: "
        f"{'the same bits' if same else 'DIFFERENT LOGITS, a fault'}"
    )

    print("[3/4] a few of them:")
    _, first = np.unique(dataset.labels, return_index=True)
    rows = []
    for index in first[:SAMPLES]:
        label = session.class_names[dataset.labels[index]]
        (name, probability), *_ = session.classify(dataset.image(int(index)), top=1)
        rows.append([f"a picture of {label}", f"{name}  {probability:6.1%}", "" if name == label else "wrong"])
    print(table(rows, right=False))

    print("[4/4] milliseconds an image:")
    runs = native_runs(path, file, isas=[session.isa], threads=sorted({1, allowed_cores()}), batches=[1])
    timings = measure(runs, 1.0, progress)
    print(timing_table(timings))
    for line in [*comparisons(timings), *([BUSY] if busy(timings) else [])]:
        print(line)
    print(
        f"\nTry it:\n  bhvit classify {Path('your-picture.jpg')}\n"
        f"  bhvit train --data photos --init {bundled.DEFAULT} --recipe finetune --out runs/photos"
    )
    return 0 if same else 1
