"""`bhvit calibrate`: probabilities that are frequencies, and a threshold for unknown images."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from .. import bundled
from ..calibration import MISS_RATE, SCORES, Calibration
from ..errors import UserError, counted
from .console import Progress, Subparsers, add_json, add_max_memory, command, positive, print_json, split_name

FEW = 100
"""Images below which a calibration is said to be rough."""

_DESCRIPTION = """\
Fit the temperature by which a model's logits are divided, so that of the answers given with 80 % about 80 %
are right, and measure how well the model knows these images, for `bhvit classify --unknown`. Both are stored
in the model's file; weights and answers stay as they are. `bhvit train` does the same for the checkpoints of
a run, and `bhvit pack` keeps it: calibrate again where a model meets other images than it was trained on.
The images must not be those that the model learned from."""

_EXAMPLE = """\
bhvit calibrate photos.bhv --data photos
bhvit calibrate cifar10 --data my-photos --split all --out mine.bhv"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(subparsers, "calibrate", "make a model's probabilities mean something", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="a .bhv file or a .safetensors checkpoint; it is rewritten")
    parser.add_argument("--data", required=True, help="labelled images, as for `bhvit train`")
    parser.add_argument(
        "--split",
        type=split_name,
        choices=("validation", "test", "all"),
        default="validation",
        help="default: validation, held out of the training images where the data has no such split",
    )
    parser.add_argument("--classes", metavar="FILE", help="class names of parquet labels, a line each")
    parser.add_argument("--test-fraction", type=float, metavar="F", help="share held out, as for `bhvit train`")
    parser.add_argument(
        "--score",
        choices=SCORES,
        default=SCORES[0],
        help="what tells known images from unknown ones (default energy: log of the sum of exp(logits))",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write this file and leave MODEL as it is")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    add_max_memory(parser)
    parser.add_argument("--strict", action="store_true", help="refuse damaged images, do not skip them")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write and print; 0. Raises UserError."""
    from ..calibration import fit
    from ..data.dataset import open_dataset, splits_of
    from ..data.metrics import evaluate
    from ..files import check_absent
    from ..verification.predictors import open_model, task_of

    source = bundled.find(args.model, ".bhv")
    if args.out is None and source.parent == bundled.FOLDER:
        raise UserError(f"{args.model} is a bundled model, which stays as it is: --out FILE writes another")
    if args.out is not None:
        if args.out.suffix != source.suffix:
            raise UserError(f"--out {args.out} must end in {source.suffix}, as {args.model} does")
        check_absent(args.out, args.force)
    if task_of(str(source)) == "segment":
        raise UserError(f"{args.model} labels pixels: only models that classify images are calibrated")
    splits_of(args.data, args.classes)  # data that is not there is named before PyTorch loads
    model = open_model(args.model, args.threads, args.max_memory)
    dataset = open_dataset(
        args.data,
        args.split,
        class_names=model.class_names,
        classes_file=args.classes,
        strict=args.strict,
        test_fraction=args.test_fraction,
    )
    metrics = evaluate(model.predict, dataset, model.preprocess, progress=Progress("evaluating"))
    found = fit(metrics.logits, metrics.labels, args.score)
    out = args.out or source
    _write(source, found, out)
    after = metrics.calibrated(found)
    if args.json:
        print_json(
            {
                "model": str(out),
                "images": len(dataset),
                "split": dataset.split,
                "before": {"cross_entropy": metrics.cross_entropy, "calibration_error": metrics.calibration_error},
                "after": after,
                "score": found.score,
                "threshold": found.threshold(),
                "miss_rate": MISS_RATE,
            }
        )
        return 0
    print(
        f"{out}: temperature {found.temperature:g}, from {counted(len(dataset), 'image')} of the split {dataset.split}"
    )
    if len(dataset) < FEW:
        print(f"  few images: temperature and threshold are rough, {FEW} or more make them reliable")
    print(f"  calibration error {metrics.calibration_error:.2%}, now {after['calibration_error']:.2%}")
    print(f"  cross entropy {metrics.cross_entropy:.4f}, now {after['cross_entropy']:.4f}")
    print(f"  unknown: {found.score} below {found.threshold():.4g}, as {MISS_RATE:.0%} of these images are")
    return 0


def _write(source: Path, calibration: Calibration, out: Path) -> None:
    if source.suffix == ".bhv":
        from ..format import file as bhv_file

        bhv_file.write(dataclasses.replace(bhv_file.read(source), calibration=calibration), out)
        return
    from ..models import load_checkpoint, save_checkpoint

    model = load_checkpoint(source)
    model.calibration = calibration
    save_checkpoint(model, out)
