"""`bhvit import`: published weights become a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError, counted
from ..text import count_text, describe, size_text
from .console import Subparsers, add_json, command, print_json


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "import",
        "turn published weights into a checkpoint",
        "Read published BHViT or BinaryViT weights (.pth or .safetensors), infer the architecture from their\n"
        "names and shapes, and write a checkpoint for `bhvit train --init`, `eval` and `pack`. Nothing that a\n"
        "pickle may hold is executed; names that do not fit are listed. Of a trainer's file that holds both, the\n"
        "weights under 'model' are taken and not those under 'model_ema'.",
        "bhvit import bhvit_small.pth --out bhvit_small.safetensors --classes imagenet.txt",
    )
    parser.add_argument("weights", type=Path, help="published weights (.pth or .safetensors)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="checkpoint to write (.safetensors)")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, a line each")
    parser.add_argument(
        "--weight-bits", type=int, choices=(1, 32), help="if not those of the activations; names do not tell"
    )
    parser.add_argument(
        "--heads", type=int, nargs="+", metavar="N", help="attention heads of each stage, if not 64 channels a head"
    )
    parser.add_argument("--recu", action="store_true", help="training used ReCU and is to go on with it")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint of published weights; 0. Raises UserError."""
    from ..data.classes import read_class_names
    from ..files import check_absent

    if args.out.suffix != ".safetensors":
        raise UserError(f"a checkpoint is a .safetensors file, so --out cannot be {args.out}")
    if args.out.resolve() == args.weights.resolve():
        raise UserError(f"--out is the file of published weights itself ({args.weights}); give another")
    check_absent(args.out, args.force)
    if not args.weights.exists():
        raise UserError(f"no file at {args.weights}")
    from ..models import from_published, save_checkpoint  # PyTorch, which takes seconds to load

    model = from_published(args.weights, weight_bits=args.weight_bits, heads=args.heads, recu=args.recu)
    if args.classes is not None:
        names = read_class_names(args.classes)
        if len(names) != model.spec.num_classes:
            raise UserError(
                f"{args.classes} has {counted(len(names), 'name')}, the weights "
                f"{counted(model.spec.num_classes, 'class')}"
            )
        model.class_names = names
    save_checkpoint(model, args.out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if args.json:
        print_json({"checkpoint": str(args.out), "spec": model.spec.name, "parameters": parameters})
        return 0
    print(f"{args.out}: {size_text(args.out.stat().st_size)}")
    print(f"  {describe(model.spec)}, {count_text(parameters)} parameters")
    return 0
