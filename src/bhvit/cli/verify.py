"""`bhvit verify`: does the packed file answer as the model it came from?"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from .. import bundled
from ..errors import UserError, counted
from .console import (
    Progress,
    Subparsers,
    add_engine,
    add_json,
    checkpoint_file,
    command,
    packed_file,
    part_text,
    positive,
    print_json,
    split_name,
    table,
)

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..verification.compare import Comparison
    from ..verification.exported import ExportComparison, MaskExportComparison
    from ..verification.segmentation import MaskComparison

THRESHOLD = 99.5

_DESCRIPTION = f"""\
Run real images through the checkpoint in PyTorch and through the packed file natively, and compare:
top-1 agreement, accuracy of each, the largest difference of a logit. A few images are followed op by op:
native and the NumPy reference must be equal bit for bit; PyTorch and native differ by rounding, and,
where a value lies at a threshold, by a flipped sign and what follows from it. Each op is also run by both on
the same input, and the flipped signs (and levels of attention) are counted.
The exit status is 1 if agreement is below --threshold ({THRESHOLD} %), native and reference differ, or an op
differs where no sign at rounding distance flipped.

With an exported model (.onnx) in the place of the checkpoint, ONNX Runtime is compared with the packed file
and, with --checkpoint, with PyTorch: agreement, accuracy and the largest difference of a logit; of a
segmentation agreement of pixels and mIoU."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "verify",
        "compare a packed file with the model it came from",
        _DESCRIPTION,
        "bhvit verify runs/photos/best.safetensors photos.bhv --data photos\n"
        "bhvit verify photos.onnx photos.bhv --data photos --checkpoint runs/photos/best.safetensors",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint_file,
        help="checkpoint that the file was packed from (.safetensors), or a model that was exported from it (.onnx)",
    )
    parser.add_argument("model", type=packed_file, help="packed model (.bhv)")
    parser.add_argument(
        "--checkpoint",
        dest="third",
        type=checkpoint_file,
        metavar="FILE",
        help="with an exported model: the checkpoint, to compare with PyTorch too",
    )
    parser.add_argument("--data", required=True, help="images: digits, cifar10, a folder, parquet or an archive")
    parser.add_argument(
        "--split", type=split_name, default="test", help="train, validation, test (default, else validation) or all"
    )
    parser.add_argument("--classes", metavar="FILE", help="class names of parquet labels, a line each")
    parser.add_argument("--ignore", type=int, metavar="N", help="label of masks that counts for nothing, next to 255")
    parser.add_argument(
        "--unlabelled", action="store_true", help="use the pictures alone: their classes need not be the model's"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="compare N images, evenly chosen (default all)")
    parser.add_argument("--trace", type=positive, default=4, metavar="N", help="images to follow op by op (default 4)")
    parser.add_argument(
        "--threshold",
        type=_percent,
        default=THRESHOLD,
        metavar="PERCENT",
        help=f"least top-1 agreement, of a segmentation of pixels (default {THRESHOLD})",
    )
    parser.add_argument("--ops", action="store_true", help="print the difference after every op")
    parser.add_argument("--strict", action="store_true", help="refuse damaged images instead of skipping them")
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..data.dataset import evenly, open_dataset
    from ..format import file as bhv_file
    from ..format.checkpoint import read_description

    for checkpoint in filter(None, (args.checkpoint, args.third)):
        bundled.check_name(checkpoint, ".safetensors")
    exported = args.checkpoint.suffix == ".onnx"
    if args.third is not None and not exported:
        raise UserError("--checkpoint goes with an exported model (.onnx) as the first file")
    file = bhv_file.read(args.model)
    for checkpoint in filter(None, (args.third if exported else args.checkpoint,)):
        read_description(checkpoint)  # before PyTorch loads
    if file.spec.task == "segment":
        return _run_masks(args, exported)
    class_names = None if args.unlabelled else file.class_names
    dataset = open_dataset(
        args.data, args.split, class_names=class_names, classes_file=args.classes, strict=args.strict
    )
    dataset = dataset.subset(evenly(len(dataset), args.limit))
    if exported:
        return _verify_export(args, dataset)
    from ..verification.compare import compare
    from ..verification.summary import findings

    found = compare(
        args.checkpoint,
        args.model,
        dataset,
        threads=args.threads,
        isa=args.isa,
        max_memory=args.max_memory,
        traced=args.trace,
        labelled=not args.unlabelled,
        progress=Progress,
    )
    return _print(args, dataset, found, findings(found))


def _run_masks(args: argparse.Namespace, exported: bool) -> int:
    from ..data.dataset import evenly
    from ..data.masks import open_masked
    from ..format import file as bhv_file
    from ..verification.segmentation import compare_masks
    from ..verification.summary import mask_findings

    if args.unlabelled:
        raise UserError("--unlabelled is for classifiers: a segmentation is verified on images with masks")
    dataset = open_masked(
        args.data,
        args.split,
        class_names=bhv_file.read(args.model).class_names,
        classes_file=args.classes,
        ignore=args.ignore,
    )
    dataset = dataset.subset(evenly(len(dataset), args.limit))
    if exported:
        return _verify_export(args, dataset)
    found = compare_masks(
        args.checkpoint,
        args.model,
        dataset,
        threads=args.threads,
        isa=args.isa,
        max_memory=args.max_memory,
        traced=args.trace,
        progress=Progress("comparing"),
    )
    return _print(args, dataset, found, mask_findings(found))


def _print(
    args: argparse.Namespace, dataset: Dataset, found: Comparison | MaskComparison, rows: list[tuple[str, str]]
) -> int:
    """Print what was found and return the exit status."""
    lines = [table(rows, right=False)]
    if args.ops:
        ops = [
            [op.name, f"{op.fraction:.2e}", f"{op.largest:.2e}", f"{op.relative:.2e}", str(flips.flipped)]
            for op, flips in zip(found.ops, found.flips, strict=True)
        ]
        lines.append(table(ops, ("after op", "beyond rounding", "largest", "relative rms", "flipped")))
    wanted = ", native equal to the reference, no difference without a flipped sign"
    return _conclude(args, dataset, found, lines, found.sound, wanted)


def _conclude(
    args: argparse.Namespace,
    dataset: Dataset,
    found: Comparison | MaskComparison | ExportComparison | MaskExportComparison,
    lines: list[str],
    sound: bool = True,
    wanted: str = "",
) -> int:
    """Print `lines`, or all as JSON, and whether it passed: enough agreement, and `sound`. The exit status."""
    passed = sound and found.agreement * 100 >= args.threshold
    if args.json:
        print_json({**found.to_dict(), "split": dataset.split, "threshold": args.threshold / 100, "passed": passed})
    else:
        print(f"{counted(len(dataset), 'image')}{part_text(dataset.split, args.split)}")
        print(*lines, sep="\n")
        print("passed" if passed else f"FAILED (wanted: {args.threshold} % agreement{wanted})")
        if wanted and sound and not passed:
            print(
                "all else is as wanted: values at rounding distance from a threshold decide the other answers, in "
                f"PyTorch's float32, too; --threshold {math.floor(found.agreement * 1000) / 10:g} accepts it"
            )
    return 0 if passed else 1


def _verify_export(args: argparse.Namespace, dataset: Dataset) -> int:
    from ..data.masks import MaskedDataset
    from ..verification.exported import compare_export, compare_mask_export

    found: ExportComparison | MaskExportComparison
    if isinstance(dataset, MaskedDataset):
        found = compare_mask_export(
            args.checkpoint,
            args.model,
            dataset,
            checkpoint=args.third,
            threads=args.threads,
            isa=args.isa,
            max_memory=args.max_memory,
            progress=Progress("comparing"),
        )
    else:
        found = compare_export(
            args.checkpoint,
            args.model,
            dataset,
            checkpoint=args.third,
            threads=args.threads,
            isa=args.isa,
            max_memory=args.max_memory,
            labelled=not args.unlabelled,
            progress=Progress,
        )
    return _conclude(args, dataset, found, [table(found.findings(), right=False)])


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage") from None
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return value
