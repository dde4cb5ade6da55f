"""`bhvit eval`: accuracy of a model on labelled images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..calibration import MISS_RATE, SCORES, Calibration
from ..data.dataset import SPLITS, evenly, open_dataset, splits_of
from ..data.metrics import Metrics, evaluate
from ..errors import UserError, counted
from .console import (
    PreparedPictures,
    Progress,
    Subparsers,
    add_json,
    add_max_memory,
    command,
    part_text,
    positive,
    print_json,
    split_name,
    table,
    usual_split,
)

if TYPE_CHECKING:
    from ..verification.predictors import OpenModel

SHOWN_CLASSES = 20

_EXAMPLE = """\
bhvit eval model.bhv --data digits
bhvit eval runs/photos/best.safetensors --data photos --split validation --json
bhvit eval model.bhv --data photos --corruptions --limit 500"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "eval",
        "measure a model's accuracy",
        "Accuracy of a checkpoint (.safetensors) or packed model (.bhv) on labelled images.",
        _EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="a .safetensors checkpoint or a .bhv file")
    parser.add_argument("--data", required=True, help="as for `bhvit train`")
    parser.add_argument("--split", type=split_name, choices=SPLITS, help="default: test, else validation, else all")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images at a time (default 64)")
    parser.add_argument(
        "--test-fraction",
        type=float,
        metavar="F",
        help="share held out where the data has no validation split (default 0.2, or 0.1 if it has a test split)",
    )
    parser.add_argument("--classes", metavar="FILE", help="class names of parquet labels, a line each")
    parser.add_argument("--ignore", type=int, metavar="N", help="label of masks that counts for nothing, next to 255")
    parser.add_argument("--limit", type=positive, metavar="N", help="evaluate N images, evenly chosen (default all)")
    parser.add_argument(
        "--corruptions",
        action="store_true",
        help="also measure accuracy under noise, blur, fog, brightness, contrast, JPEG and pixelation, each at five "
        "strengths: 36 times the work",
    )
    parser.add_argument(
        "--unknown-data",
        metavar="SOURCE",
        help="pictures of what the model does not know, as for `bhvit classify`: how well scores tell them apart",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all cores)")
    add_max_memory(parser)
    parser.add_argument("--strict", action="store_true", help="refuse damaged images, do not skip them")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; 0. Raises UserError."""
    from ..verification.predictors import open_model, task_of

    if task_of(args.model) == "segment":
        if args.corruptions or args.unknown_data is not None or args.limit:
            raise UserError(
                f"--corruptions, --unknown-data and --limit are for classifiers; {args.model} labels pixels"
            )
        return _run_masks(args)
    usual = usual_split(splits_of(args.data, args.classes))  # and data that is not there is named before PyTorch loads
    model = open_model(args.model, args.threads, args.max_memory)
    dataset = open_dataset(
        args.data,
        args.split or usual,
        class_names=model.class_names,
        classes_file=args.classes,
        strict=args.strict,
        test_fraction=args.test_fraction,
    )
    dataset = dataset.subset(evenly(len(dataset), args.limit))
    progress = Progress("evaluating")
    metrics = evaluate(model.predict, dataset, model.preprocess, batch_size=args.batch_size, progress=progress)
    unknown = None
    if args.unknown_data is not None:
        unknown = _unknown(model, metrics, args.unknown_data, args.limit, args.strict)
    corrupted = None
    if args.corruptions:
        from ..data.corruptions import robustness

        corrupted = robustness(
            model.predict,
            dataset,
            model.preprocess,
            batch_size=args.batch_size,
            progress=Progress("evaluating corrupted images"),
        )
    if args.json:
        more = {
            "calibrated": model.calibration and metrics.calibrated(model.calibration),
            **({} if unknown is None else {"unknown": unknown}),
            **({} if corrupted is None else {"corruptions": corrupted.to_dict()}),
        }
        print_json({"model": args.model, "data": args.data, "split": dataset.split, **metrics.to_dict(), **more})
        return 0
    _print(metrics, dataset.split, args.split, model.calibration)
    if unknown is not None:
        _print_unknown(unknown)
    if corrupted is not None:
        print(f"accuracy on corrupted images, {corrupted.mean:.2%} on average:")
        print(table(corrupted.rows(), ("corruption", "strength 1", "2", "3", "4", "5", "mean")))
    return 0


def _run_masks(args: argparse.Namespace) -> int:
    """Evaluate a segmentation at each image's own size."""
    from ..data.masks import open_masked
    from ..data.masks import splits_of as splits_of_masks
    from ..data.segmentation_metrics import evaluate_masks
    from ..verification.predictors import open_labeller

    usual = usual_split(splits_of_masks(args.data))
    label, class_names = open_labeller(args.model, args.threads, args.max_memory)
    dataset = open_masked(
        args.data,
        args.split or usual,
        class_names=class_names,
        classes_file=args.classes,
        ignore=args.ignore,
        test_fraction=args.test_fraction,
    )
    metrics = evaluate_masks(label, dataset, Progress("evaluating"))
    if args.json:
        print_json({"model": args.model, "data": args.data, "split": dataset.split, **metrics.to_dict()})
        return 0
    part = part_text(dataset.split, args.split)
    print(f"{counted(metrics.images, 'image')}{part}, {counted(len(metrics.class_names), 'class')}")
    print(f"mIoU {metrics.miou:.2%}   pixel accuracy {metrics.pixel_accuracy:.2%}")
    print(f"{1000 * metrics.seconds / metrics.images:.2f} ms an image, with its preparation")
    print("intersection over union, lowest first:")
    for value, name in sorted(zip(metrics.per_class, metrics.class_names)):
        print(f"  {'      –' if value != value else f'{value:7.2%}'}  {name}")
    return 0


def _unknown(model: OpenModel, known: Metrics, source: str, limit: int | None, strict: bool) -> dict[str, Any]:
    """How well an image's score tells known from unknown images."""
    from ..calibration import auroc, scores
    from ..data.inputs import open_inputs

    calibration = model.calibration
    score = calibration.score if calibration else SCORES[0]
    logits: list[npt.NDArray[np.float32]] = []
    progress = Progress("evaluating unknown images")
    with open_inputs([source]) as inputs:
        pictures = PreparedPictures(
            inputs,
            model.preprocess,
            progress,
            strict=strict,
            needed=model.preprocess.needed,
            what=f"--unknown-data {source}",
        )
        for _, image in pictures:
            logits.append(model.predict(image))
            if limit and len(logits) >= limit:
                break
    progress.clear()
    if not logits:
        raise UserError(f"--unknown-data {source} holds no pictures")
    strange = np.concatenate(logits)
    if not np.isfinite(strange).all():
        raise UserError(f"the model gives numbers that are not finite for pictures of --unknown-data {source}")
    found = {
        "data": source,
        "images": len(strange),
        "score": score,
        "auroc": auroc(scores(known.logits, score), scores(strange, score)),
    }
    if calibration is not None:
        found |= {
            "miss_rate": MISS_RATE,
            "missed": float(calibration.unknown(known.logits).mean()),
            "found": float(calibration.unknown(strange).mean()),
        }
    return found


def _print_unknown(unknown: Mapping[str, Any]) -> None:
    print(
        f"{counted(unknown['images'], 'unknown image')}: AUROC {unknown['auroc']:.2%} by {unknown['score']} (50 "
        "% is guessing)"
    )
    if "found" in unknown:
        print(
            f"  at a miss rate of {unknown['miss_rate']:.0%}, `bhvit classify --unknown` finds {unknown['found']:.2%} "
            f"of them, and takes {unknown['missed']:.2%} of the known images for unknown"
        )


def _print(metrics: Metrics, split: str, asked: str | None, calibration: Calibration | None) -> None:
    count = len(metrics.labels)
    print(f"{counted(count, 'image')}{part_text(split, asked)}, {counted(len(metrics.class_names), 'class')}")
    print(f"top-1 {metrics.top1:.2%}   top-5 {metrics.top5:.2%}   cross entropy {metrics.cross_entropy:.4f}")
    print(f"calibration error {metrics.calibration_error:.2%}: how far probabilities are from frequencies")
    if calibration is not None:
        found = metrics.calibrated(calibration)
        print(
            f"  with temperature {calibration.temperature:g}, as `bhvit classify` applies it: "
            f"{found['calibration_error']:.2%}, cross entropy {found['cross_entropy']:.4f}"
        )
    print(f"{1000 * metrics.seconds / count:.2f} ms an image in the model, in batches")
    rows = sorted(zip(metrics.per_class, metrics.class_names, metrics.confusion.sum(axis=1)), key=lambda row: row[0])
    print("class accuracy, lowest first:")
    for accuracy, name, images in [row for row in rows if row[2]][:SHOWN_CLASSES]:
        print(f"  {accuracy:7.2%}  {name} ({images})")
    if len(rows) > SHOWN_CLASSES:
        print(f"  … {len(rows) - SHOWN_CLASSES} more; --json gives all")
