"""Train the rows of the segmentation comparison, a stage at a time, each in a folder of its own.

    python -m benchmarks.segmentation.train --data camvid-320x240.zip --runs runs/segment --rows scratch twin --seeds 0

Called again, it goes on with what is not finished; a stage that was interrupted is resumed. `python -m
benchmarks.segmentation.measure` makes the page of what has been trained so far. All rows see the training and
validation images, with the same augmentation, for the same number of epochs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bhvit.train import TrainConfig, train
from bhvit.train.run_folder import RunFolder

from . import lraspp
from .rows import ROWS, stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/segment"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=float, default=1.0, metavar="F", help="times the number of epochs (default 1)")
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="settings to change in all rows")
    args = parser.parse_args()
    for stage in stages(args.rows, args.seeds):
        config = stage.config(args.data, args.runs, args.epochs, args.set)
        print(f"{stage.folder}: {config.epochs} epochs", flush=True)
        run = lraspp.train if ROWS[stage.row].network == "lraspp" else _ours
        run(config)


def _ours(config: TrainConfig) -> None:
    folder = Path(config.out)
    if len(RunFolder(folder).entries()) < config.epochs:
        train(config, resume=(folder / "config.json").exists())


if __name__ == "__main__":
    main()
