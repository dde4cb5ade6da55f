"""`bhvit info`: what a model holds and what it costs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .console import (
    Subparsers,
    add_json,
    count_text,
    describe,
    positive,
    print_json,
    safetensors_metadata,
    size_text,
    table,
    verb,
)

if TYPE_CHECKING:
    from ..costs import OpCost
    from ..spec import ModelSpec

_DESCRIPTION = """\
Parameters, bits, bytes and arithmetic of a packed file, a checkpoint or a model by name.

How operations are counted, an image: a binary multiply-accumulate (BOP) is one product of two signs in
the token mixers, the MLP, the attention's projections and matrix products and the binary downsampling;
a window's copy of the global tokens counts again in every window. A full-precision one (FLOP) is one in
the stem, the classifier and, in the _fp variants, the downsampling. OPs = BOPs / 64 + FLOPs; norms,
activations and pooling are left out. This is the counting of the published tables."""


def add_parser(subparsers: Subparsers) -> None:
    parser = verb(
        subparsers,
        "info",
        "parameters, bits, bytes and arithmetic of a model",
        _DESCRIPTION,
        "bhvit info model.bhv --ops\nbhvit info bhvit_small\nbhvit info bhvit_tiny --img-size 192x256 --num-classes 10",
    )
    parser.add_argument("model", help="a .bhv file, a checkpoint (.safetensors), or a model's name")
    parser.add_argument("--img-size", metavar="PIXELS", help="with a name: edge, or HEIGHTxWIDTH")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="with a name: classes (default 1000)")
    parser.add_argument("--ops", action="store_true", help="a line for every op")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..costs import op_costs, total

    spec, file = _open(args)
    costs = op_costs(spec)
    whole = total(costs)
    if args.json:
        print_json(_to_dict(spec, file, costs, whole))
        return 0
    print(describe(spec))
    if "classes" in file:
        names = file["classes"]
        print("  classes: " + ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else ""))
    if "preprocess" in file:
        print(f"  images: {_preprocess_text(file['preprocess'])}")
    rows = [
        ["parameters", count_text(whole.parameters), ""],
        ["  binary (a bit each)", count_text(whole.binary_parameters), size_text(-(-whole.binary_parameters // 8))],
        ["  full precision", count_text(whole.float_parameters), ""],
        ["binary multiply-accumulates", count_text(whole.binary_macs), ""],
        ["full-precision multiply-accumulates", count_text(whole.float_macs), ""],
        ["OPs (binary / 64 + full precision)", f"{whole.ops:.3g}", ""],
    ]
    if "bytes" in file:
        rows.append(["file", "", size_text(file["bytes"])])
    for kind, size in file.get("bytes_by_kind", {}).items():
        rows.append([f"  {kind}", "", size_text(size)])
    print(table(rows))
    if args.ops:
        print(_op_table(costs))
    return 0


def _open(args: argparse.Namespace) -> tuple[ModelSpec, dict[str, Any]]:
    """The spec of what was named, and what is known of its file."""
    from ..spec import ModelSpec

    path = Path(args.model)
    looks_like_file = path.suffix in (".bhv", ".safetensors") or "/" in args.model or path.exists()
    if not looks_like_file:
        from ..models import model_spec

        settings: dict[str, Any] = {"num_classes": args.num_classes or 1000}
        if args.img_size:
            settings["img_size"] = _parse_size(args.img_size)
        return model_spec(args.model, **settings), {}
    if args.img_size or args.num_classes:
        raise UserError(f"--img-size and --num-classes go with a model's name; {path} has its own")
    metadata = safetensors_metadata(path)
    if "bhvit-checkpoint" in metadata:
        try:
            spec = ModelSpec.from_json(json.loads(metadata["bhvit-checkpoint"])["spec"])
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path} is damaged: its description cannot be read") from None
        return spec, {"bytes": path.stat().st_size}
    from .. import format
    from ..costs import bytes_by_kind

    packed = format.read(path)
    sizes = bytes_by_kind(packed)
    size = path.stat().st_size
    return packed.spec, {
        "bytes": size,
        "bytes_by_kind": {**sizes, "header": size - sum(sizes.values())},
        "classes": list(packed.class_names),
        "preprocess": json.loads(packed.preprocess.to_json()),
    }


def _preprocess_text(settings: dict[str, Any]) -> str:
    height, width = settings["size"]
    colours = {1: "greyscale", 3: "RGB"}.get(settings["channels"], f"{settings['channels']} channels")
    return (
        f"{height}x{width} {colours}, resized ({settings['interpolation']}), centre crop {settings['crop']:g}, "
        f"mean {', '.join(f'{value:g}' for value in settings['mean'])}, "
        f"std {', '.join(f'{value:g}' for value in settings['std'])}"
    )


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--img-size takes an edge or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(parts[0]), int(parts[-1])


def _op_table(costs: list[OpCost]) -> str:
    rows = [
        [
            cost.name,
            cost.kind,
            count_text(cost.binary_macs),
            count_text(cost.float_macs),
            count_text(cost.ops),
            count_text(cost.binary_parameters),
            count_text(cost.float_parameters),
        ]
        for cost in costs
    ]
    header = ("op", "kind", "binary MACs", "float MACs", "OPs", "binary params", "float params")
    return table(rows, header)


def _to_dict(spec: ModelSpec, file: dict[str, Any], costs: list[OpCost], whole: OpCost) -> dict[str, Any]:
    def fields(cost: OpCost) -> dict[str, Any]:
        return {
            "binary_macs": cost.binary_macs,
            "float_macs": cost.float_macs,
            "ops": cost.ops,
            "parameters": cost.parameters,
            "binary_parameters": cost.binary_parameters,
            "float_parameters": cost.float_parameters,
        }

    return {
        "name": spec.name,
        "img_size": list(spec.img_size),
        "in_chans": spec.in_chans,
        "num_classes": spec.num_classes,
        **fields(whole),
        "file": file or None,
        "program": [{"name": cost.name, "kind": cost.kind, **fields(cost)} for cost in costs],
    }
