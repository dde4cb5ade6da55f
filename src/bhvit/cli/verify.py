"""`bhvit verify`: does the packed file answer as the model it came from?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..text import count_text
from .console import (
    Progress,
    Subparsers,
    add_engine,
    add_json,
    checkpoint_file,
    packed_file,
    positive,
    print_json,
    table,
    verb,
)

if TYPE_CHECKING:
    from ..verification.compare import Comparison

THRESHOLD = 99.5

_DESCRIPTION = f"""\
Run real images through the checkpoint in PyTorch and through the packed file natively, and compare:
top-1 agreement, accuracy of each, the largest difference of a logit. A few images are followed op by op:
native and the NumPy reference must be equal bit for bit; PyTorch and native differ by rounding, and,
where a value lies at a threshold, by a flipped sign and what follows from it. Each op is also run by both on
the same input, and the flipped signs (and levels of attention) are counted.
The exit status is 1 if agreement is below --threshold ({THRESHOLD} %), native and reference differ, or an op
differs where no sign at rounding distance flipped."""


def add_parser(subparsers: Subparsers) -> None:
    parser = verb(
        subparsers,
        "verify",
        "compare a packed file with the model it came from",
        _DESCRIPTION,
        "bhvit verify runs/photos/best.safetensors photos.bhv --data photos",
    )
    parser.add_argument(
        "checkpoint", type=checkpoint_file, help="checkpoint that the file was packed from (.safetensors)"
    )
    parser.add_argument("model", type=packed_file, help="packed model (.bhv)")
    parser.add_argument("--data", required=True, help="images: digits, cifar10, a folder, parquet or an archive")
    parser.add_argument("--split", default="test", help="train, validation, test (default) or all")
    parser.add_argument("--classes", metavar="FILE", help="class names of parquet labels, a line each")
    parser.add_argument("--unlabelled", action="store_true",
                        help="use the pictures alone: their classes need not be the model's")  # fmt: skip
    parser.add_argument("--limit", type=positive, metavar="N", help="compare N images, evenly chosen (default all)")
    parser.add_argument("--trace", type=positive, default=4, metavar="N", help="images to follow op by op (default 4)")
    parser.add_argument("--threshold", type=_percent, default=THRESHOLD, metavar="PERCENT",
                        help=f"least top-1 agreement (default {THRESHOLD})")  # fmt: skip
    parser.add_argument("--ops", action="store_true", help="print the difference after every op")
    parser.add_argument("--strict", action="store_true", help="refuse damaged images instead of skipping them")
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from ..data.dataset import open_dataset
    from ..format import file as bhv_file
    from ..verification.compare import compare

    class_names = None if args.unlabelled else bhv_file.read(args.model).class_names
    dataset = open_dataset(
        args.data, args.split, class_names=class_names, classes_file=args.classes, strict=args.strict
    )
    if args.limit and args.limit < len(dataset):
        dataset = dataset.subset(np.linspace(0, len(dataset) - 1, args.limit).round().astype(int))
    found = compare(
        args.checkpoint, args.model, dataset,
        threads=args.threads, isa=args.isa, traced=args.trace,
        labelled=not args.unlabelled, progress=Progress,
    )  # fmt: skip
    sound = found.reference_parts_at is None and found.unexplained is None
    passed = sound and found.agreement * 100 >= args.threshold
    if args.json:
        print_json({**found.to_dict(), "threshold": args.threshold / 100, "passed": passed})
    else:
        print(table(findings(found), right=False))
        if args.ops:
            rows = [
                [op.name, f"{op.fraction:.2e}", f"{op.largest:.2e}", f"{op.relative:.2e}", str(flips.flipped)]
                for op, flips in zip(found.ops, found.flips, strict=True)
            ]
            print(table(rows, ("after op", "beyond rounding", "largest", "relative rms", "flipped")))
        wanted = f"{args.threshold} % agreement, native equal to the reference, no difference without a flipped sign"
        print("passed" if passed else f"FAILED (wanted: {wanted})")
    return 0 if passed else 1


def findings(found: Comparison) -> list[tuple[str, str]]:
    """What was found: names and values as text."""
    images = len(found.torch.labels)
    same = round(found.agreement * images)
    return [
        ("top-1 agreement", f"{found.agreement:.2%} ({same} of {images} images)"),
        ("accuracy in PyTorch", f"{found.torch.top1:.2%}" if found.labelled else "not measured"),
        ("accuracy of the packed file", f"{found.native.top1:.2%}" if found.labelled else "not measured"),
        ("largest logit difference", f"{found.logit_difference:.3g}"),
        ("native and NumPy reference", _reference_text(found)),
        ("PyTorch and native", _parts_text(found)),
        ("on the same input, op by op", _flips_text(found)),
    ]


def _reference_text(found: Comparison) -> str:
    if found.reference_parts_at is None:
        return f"equal, bit for bit, after all {len(found.ops)} ops of {found.traced} images"
    return f"DIFFER, first after op {found.reference_parts_at}"


def _parts_text(found: Comparison) -> str:
    parted = found.parts_at
    if parted is None:
        return f"equal to rounding after all {len(found.ops)} ops of {found.traced} images"
    return (
        f"equal to rounding up to op {parted.name}, where {parted.fraction:.1e} of the elements differ by more "
        "(flipped signs)"
    )


def _flips_text(found: Comparison) -> str:
    from ..verification.flips import total

    whole, unexplained = total(found.flips), found.unexplained
    if unexplained is not None:
        return f"DIFFER in {unexplained.name} by more than flipped signs explain: packed from other weights?"
    text = f"{whole.flipped} of {count_text(whole.decisions)} signs and levels flipped"
    return text + (f", at most {whole.farthest:.0e} of the rms from their threshold" if whole.flipped else "")


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage") from None
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage between 0 and 100")
    return value
