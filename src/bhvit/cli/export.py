"""`bhvit export`: a packed model for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import bundled
from ..errors import UserError
from ..text import size_text
from .console import Subparsers, add_json, command, packed_file, print_json

_DESCRIPTION = """\
Write a packed model as an ONNX file that ONNX Runtime, OpenVINO and others run: standard operators of
operator set 17, any batch, class names and preprocessing in its metadata. It takes what Session.preprocess
gives, and computes logits. These runtimes have no products of bits: expect several times the size and the
time of the packed file."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "export",
        "write a packed model as an ONNX file",
        _DESCRIPTION,
        "bhvit export photos.bhv photos.onnx\nbhvit verify photos.onnx photos.bhv --data photos",
    )
    parser.add_argument("model", type=packed_file, metavar="MODEL", help="a packed model (.bhv) or a bundled name")
    parser.add_argument("out", type=Path, nargs="?", metavar="FILE", help="default: the model's name with .onnx")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="the only one so far")
    parser.add_argument(
        "--weights",
        choices=("int8", "bits", "float32"),
        default="int8",
        help="how binary weights are stored: int8 with DequantizeLinear, a quarter of float32, which every runtime "
        "reads (default); bits, eight to a byte, unpacked by operators on constants; float32",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export and print the size; 0. Raises UserError."""
    from ..files import check_absent, write_atomically
    from ..format import file as bhv_file
    from ..integrations.onnx import to_onnx

    model: Path = args.model
    if model.suffix == ".safetensors":
        raise UserError(f"{model} is a checkpoint: `bhvit pack` it first, then export the packed file")
    named = bundled.found_by_name(model)
    out = args.out or (Path(f"{model.stem}.onnx") if named else model.with_suffix(".onnx"))
    if out.suffix.lower() != ".onnx":
        raise UserError(f"{out} must end in .onnx, as runtimes expect of such a file")
    check_absent(out, args.force)
    data = to_onnx(bhv_file.read(model), args.weights)
    write_atomically(out, data)
    before = model.stat().st_size
    if args.json:
        print_json({"model": str(out), "bytes": len(data), "packed_bytes": before, "weights": args.weights})
    else:
        print(f"{out}: {size_text(len(data))}, weights as {args.weights} (packed: {size_text(before)})")
    return 0
