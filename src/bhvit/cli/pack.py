"""`bhvit pack`: a checkpoint becomes a `.bhv` file."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import bundled
from ..errors import UserError, counted
from ..text import count_text, describe, size_text
from .console import Subparsers, add_json, checkpoint_file, command, print_json, table


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "pack",
        "turn a checkpoint into a small file of bits",
        "Fold norms and scales, turn binary weights into bits, and write a .bhv file that `bhvit classify`\n"
        "and bhvit.Session run without PyTorch. Class names and preprocessing travel with it.",
        "bhvit pack runs/photos/best.safetensors photos.bhv",
    )
    parser.add_argument(
        "checkpoint",
        type=checkpoint_file,
        help="checkpoint that `bhvit train` wrote (.safetensors), or a bundled name",
    )
    parser.add_argument("model", type=Path, nargs="?", help="file to write (default: the checkpoint's name with .bhv)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--float-storage",
        choices=("mixed", "int8", "float16", "float32"),
        help="mixed: the classifier in float16; int8: the classifier and position maps in 8 bits a channel, exact for "
        "models trained with float_bits=8 and less exact for others; float16: both in float16, less exact; float32: "
        "neither (default: int8 for models trained so, else mixed)",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Pack a checkpoint and print the file's size; 0. Raises UserError."""
    bundled.check_name(args.checkpoint, ".safetensors")
    from ..cost.counts import bytes_by_kind
    from ..format import file as bhv_file
    from ..format.checkpoint import read_description

    target = args.model or (
        Path(f"{args.checkpoint.stem}.bhv")  # a bundled model: never into the package itself
        if bundled.found_by_name(args.checkpoint)
        else args.checkpoint.with_suffix(".bhv")
    )
    if target.exists() and args.checkpoint.exists() and target.samefile(args.checkpoint):
        raise UserError(f"{target} is the checkpoint itself, which --force would replace: name another file")
    bhv_file.check_target(target, args.force)
    read_description(args.checkpoint)  # and all of that before PyTorch loads
    from ..models import load_checkpoint
    from ..packing import pack

    model = load_checkpoint(args.checkpoint)
    pack(model, target, float_storage=args.float_storage, force=args.force)
    packed = bhv_file.read(target)
    sizes = bytes_by_kind(packed)
    size, before = target.stat().st_size, args.checkpoint.stat().st_size
    weights = sum(tensor.size for tensor in packed.tensors.values() if tensor.dtype.kind == "u") * 32
    if args.json:
        print_json(
            {
                "model": str(target),
                "bytes": size,
                "checkpoint_bytes": before,
                "bytes_by_kind": sizes,
                "classes": list(packed.class_names),
                "ops": len(packed.ops),
            }
        )
        return 0
    print(f"{target}: {size_text(size)} ({before / size:.1f} times smaller than the checkpoint)")
    print(f"  {describe(packed.spec)}, {counted(len(packed.ops), 'op')}")
    rows = [
        [f"{count_text(weights)} binary weights", size_text(sizes["bits"])],
        ["float32: scales, shifts, thresholds, maps", size_text(sizes["float32"])],
        ["float16: classifier, maps", size_text(sizes["float16"])],
        ["int8: classifier, maps", size_text(sizes["int8"])],
        ["header", size_text(size - sum(sizes.values()))],
    ]
    print(table([row for row in rows if row[1] != "0 B"]))
    return 0
