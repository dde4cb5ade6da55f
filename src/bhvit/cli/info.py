"""`bhvit info`: what a model holds and what it costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..errors import UserError, listed
from ..spec.values import nearest, parse_setting, parse_size
from ..text import count_text, describe, joules_text, size_text
from .console import Subparsers, add_json, add_set, command, positive, print_json, table

if TYPE_CHECKING:
    from ..format.file import Description
    from ..format.op_cost import OpCost
    from ..image import Preprocess

_DESCRIPTION = """\
Parameters, bits, bytes and arithmetic of a packed file, a checkpoint or a model by name.

How operations are counted, an image: a binary multiply-accumulate (BOP) is one product of two signs in
the token mixers, the MLP, the attention's projections and matrix products and the binary downsampling;
a window's copy of the global tokens counts again in every window. A full-precision one (FLOP) is one in
the stem, the classifier and, in the _fp variants, the downsampling. OPs = BOPs / 64 + FLOPs; norms,
activations and pooling are left out. This is the counting of the published tables.

Energy is an estimate of arithmetic units and one reading of the weights from memory, next to that of the
same network in float32: it compares networks, and is not what a processor draws. The documentation has the
formula."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "info",
        "parameters, bits, bytes and arithmetic of a model",
        _DESCRIPTION,
        "bhvit info model.bhv --ops\n"
        "bhvit info bhvit_tiny --img-size 192x256 --num-classes 10\n"
        "bhvit info bhvit_small --set mixer=attention --set stages.3.weight_bits=32",
    )
    parser.add_argument("model", help="a .bhv file, a checkpoint (.safetensors), a model's folder, or a model's name")
    parser.add_argument("--img-size", metavar="PIXELS", help="with a name: edge, or HEIGHTxWIDTH")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="with a name: classes (default 1000)")
    add_set(parser, "with a name: an override of the model, such as norm=layer or stages.0.mixer=pooling")
    parser.add_argument("--ops", action="store_true", help="a line for every op")
    add_json(parser)
    parser.set_defaults(run=run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subject:
    """What was named. `size` and `kinds` are those of the file that is there, if one is."""

    described: Description
    size: int | None = None
    kinds: dict[str, int] | None = None
    """Bytes by kind of a packed file."""


def run(args: argparse.Namespace) -> int:
    """Print what a model needs; 0. Raises UserError."""
    from ..cost.counts import op_costs, total

    subject = _open(args)
    packed, why_not = _packed(subject)
    costs = op_costs(subject.described.spec)
    whole = total(costs)
    if args.json:
        print_json(_to_dict(subject, packed, costs, whole))
        return 0
    print(describe(subject.described.spec))
    if subject.kinds:
        names = subject.described.class_names
        print("  classes: " + listed(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else ""))
        print(f"  images: {_preprocess_text(subject.described.preprocess, subject.described.spec.task)}")
        calibration = subject.described.calibration
        print(f"  probabilities: {f'temperature {calibration.temperature:g}' if calibration else 'not calibrated'}")
    rows = [
        ["parameters", count_text(whole.parameters), ""],
        ["  binary (a bit each)", count_text(whole.binary_parameters), size_text(-(-whole.binary_parameters // 8))],
        ["  full precision", count_text(whole.float_parameters), size_text(4 * whole.float_parameters)],
        ["binary multiply-accumulates", count_text(whole.binary_macs), ""],
        ["full-precision multiply-accumulates", count_text(whole.float_macs), ""],
        ["OPs (binary / 64 + full precision)", f"{whole.ops / 1e8:.3g}e8", ""],
    ]
    if subject.size is not None:
        rows.append(["file", "", size_text(subject.size)])
    if packed and not subject.kinds:
        rows.append(["packed, it would have", "", size_text(sum(packed.values()))])
    rows += [[f"  {kind}", "", size_text(size)] for kind, size in (packed or {}).items()]
    print(table(rows))
    if why_not:
        print(f"  packed size: none; {why_not}")
    print(_energy_text(whole))
    if args.ops:
        print(_op_table(costs))
    return 0


def _open(args: argparse.Namespace) -> _Subject:
    from ..format.checkpoint import read_description, read_metadata
    from ..format.file import describe_spec

    path = bundled.find(args.model, ".bhv")
    looks_like_file = path.suffix in (".bhv", ".safetensors") or "/" in args.model or path.exists()
    if not looks_like_file:
        from ..spec.overrides import known
        from ..spec.sizes import list_models, model_spec

        if args.model not in list_models():
            names = [*bundled.list_bundled(), *list_models()]
            raise UserError(f"there is no file or model {args.model}{nearest(args.model, names)}")
        settings: dict[str, Any] = dict(parse_setting(text, known) for text in args.set)
        if args.img_size:
            settings["img_size"] = parse_size(args.img_size)
        return _Subject(
            described=describe_spec(model_spec(args.model, num_classes=args.num_classes or 1000, **settings))
        )
    if args.img_size or args.num_classes or args.set:
        raise UserError(f"--img-size, --num-classes and --set go with a model's name; {path} has its own")
    from ..hf_layout import CONFIG, WEIGHTS

    folder = path.parent if path.name == WEIGHTS else path
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        path = folder / WEIGHTS
    _check_kind(path)
    # What is wrong with a packed file its own reader says better.
    if path.suffix != ".bhv" and read_metadata(path).get("format") != "bhvit":
        saved = read_description(path)
        return _Subject(
            described=describe_spec(saved.spec, saved.class_names, saved.preprocess, saved.calibration),
            size=path.stat().st_size,
        )
    from ..cost.counts import bytes_by_kind
    from ..format import file as bhv_file

    packed = bhv_file.read(path)
    kinds, size = bytes_by_kind(packed), path.stat().st_size
    return _Subject(described=packed, size=size, kinds={**kinds, "header": size - sum(kinds.values())})


def _check_kind(path: Path) -> None:
    """Raise UserError for a run's folder and for a picture, which hold no model themselves."""
    from ..decode import IMAGE_SUFFIXES

    best = path / "best.safetensors"
    if best.is_file():
        raise UserError(f"{path} is a run's folder: name a checkpoint in it, such as {best}")
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        raise UserError(f"{path} is a picture, not a model: `bhvit classify {path}` names what is in it")


def _packed(subject: _Subject) -> tuple[dict[str, int] | None, str]:
    """Return the packed file's bytes by kind, or None and why there are none.

    The file is there, or its size is predicted.
    """
    from ..cost.counts import packed_bytes

    if subject.kinds:
        return subject.kinds, ""
    try:
        return packed_bytes(subject.described), ""
    except UserError as error:
        return None, str(error)


def _energy_text(whole: OpCost) -> str:
    from ..cost.energy import SOURCE, binary_energy, float32_energy

    rows = [
        [name, *map(joules_text, (energy.arithmetic, energy.weights, energy.total))]
        for name, energy in (("this model", binary_energy(whole)), ("all of it in float32", float32_energy(whole)))
    ]
    title = f"  energy an image, estimated for arithmetic units and one reading of the weights\n  from {SOURCE}:\n"
    return title + table(rows, ("", "arithmetic", "weights", "sum"), indent="    ")


def _preprocess_text(settings: Preprocess, task: str) -> str:
    height, width = settings.size
    colours = {1: "greyscale", 3: "RGB"}.get(settings.channels, f"{settings.channels} channels")
    kept = f"centre crop {settings.crop:g}" if task == "classify" else "whole, whatever their aspect"
    return (
        f"{height}x{width} {colours}, resized ({settings.interpolation}), {kept}, "
        f"mean {', '.join(f'{value:g}' for value in settings.mean)}, "
        f"std {', '.join(f'{value:g}' for value in settings.std)}"
    )


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


def _to_dict(subject: _Subject, packed: dict[str, int] | None, costs: list[OpCost], whole: OpCost) -> dict[str, Any]:
    from ..cost.energy import SOURCE, binary_energy, float32_energy

    def fields(cost: OpCost) -> dict[str, Any]:
        return {
            "binary_macs": cost.binary_macs,
            "float_macs": cost.float_macs,
            "ops": cost.ops,
            "parameters": cost.parameters,
            "binary_parameters": cost.binary_parameters,
            "float_parameters": cost.float_parameters,
        }

    spec = subject.described.spec
    file: dict[str, Any] | None = None if subject.size is None else {"bytes": subject.size}
    if file and subject.kinds:
        file |= {
            "bytes_by_kind": subject.kinds,
            "classes": list(subject.described.class_names),
            "preprocess": json.loads(subject.described.preprocess.to_json()),
        }
    return {
        "name": spec.name,
        "task": spec.task,
        "img_size": list(spec.img_size),
        "in_chans": spec.in_chans,
        "num_classes": spec.num_classes,
        **fields(whole),
        "file": file,
        "packed": packed and {"bytes": sum(packed.values()), "bytes_by_kind": packed},
        "energy": {
            "joules": binary_energy(whole).to_dict(),
            "joules_float32": float32_energy(whole).to_dict(),
            "source": SOURCE,
        },
        "program": [{"name": cost.name, "kind": cost.kind, **fields(cost)} for cost in costs],
    }
