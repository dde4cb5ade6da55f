"""`bhvit embed`: features of pictures, near duplicates, and which pictures to label next."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError, counted, listed, report, require_extra
from .console import (
    PreparedPictures,
    Progress,
    Subparsers,
    add_engine,
    add_json,
    add_model,
    command,
    positive,
    print_json,
    split_model,
)

if TYPE_CHECKING:
    from ..runtime import Session

FORMATS = (".npy", ".parquet")
_BREAKS = {ord("\n"): "\\n", ord("\r"): "\\r"}

_DESCRIPTION = """\
Compute the features of pictures that the model's classifier would get, a row of numbers a picture, and use them:
write them to a file, find near duplicates, or choose pictures to label next, those that cover all others best
(k-centre). A damaged picture is named and left out; the exit status is then 2."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "embed",
        "compute features, find duplicates, choose what to label",
        _DESCRIPTION,
        "bhvit embed cifar10 photos/ --out features.parquet\n"
        "bhvit embed cifar10 photos/ --duplicates 0.98\n"
        "bhvit embed cifar10 unlabelled/ --label-next 50 --labelled photos/",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="[MODEL] PICTURE", help="a packed model, and pictures as for `bhvit classify`"
    )
    add_model(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=".npy: an array (pictures, channels), their names in a .txt next to it; .parquet: columns image, features",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument(
        "--duplicates", type=float, metavar="COSINE", help="list pairs whose features have at least this cosine (0.98)"
    )
    parser.add_argument("--label-next", type=positive, metavar="N", help="choose N pictures to label")
    parser.add_argument("--labelled", metavar="SOURCE", help="with --label-next: pictures that have labels already")
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged picture")
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Embed, write and print; 0, or 2 if a picture could not be read. Raises UserError."""
    from ..data.embeddings import k_centres, near_duplicates
    from ..runtime import Session

    model, sources = split_model(args, "embed")
    if args.out is None and args.duplicates is None and args.label_next is None:
        raise UserError("say what the features are for: --out FILE, --duplicates COSINE or --label-next N")
    if args.labelled is not None and args.label_next is None:
        raise UserError("--labelled goes with --label-next N")
    if args.duplicates is not None and not -1 <= args.duplicates <= 1:
        raise UserError(f"--duplicates takes a cosine from -1 to 1, such as 0.98, not {args.duplicates:g}")
    _check_out(args)
    session = Session(model, threads=args.threads, isa=args.isa, max_memory=args.max_memory)
    names, features, failed = _features(session, sources, args.strict)
    result: dict[str, Any] = {"model": str(model), "images": len(names), "channels": features.shape[1]}
    if args.out is not None:
        _write(args.out, names, features)
        result["out"] = str(args.out)
    if args.duplicates is not None:
        result["duplicates"] = [
            {"first": names[pair.first], "second": names[pair.second], "similarity": pair.similarity}
            for pair in near_duplicates(features, args.duplicates)
        ]
    if args.label_next is not None:
        known = None
        if args.labelled is not None:
            _, known, bad = _features(session, [args.labelled], args.strict)
            failed += bad
        result["label_next"] = [names[index] for index in k_centres(features, args.label_next, known)]
    if args.json:
        print_json(result)
    else:
        _print(result)
    return 2 if failed else 0


def _check_out(args: argparse.Namespace) -> None:
    from ..files import check_absent

    if args.out is None:
        return
    if args.out.suffix not in FORMATS:
        raise UserError(f"--out {args.out} must end in {' or '.join(FORMATS)}")
    check_absent(args.out, args.force)
    if args.out.suffix == ".npy":
        check_absent(args.out.with_suffix(".txt"), args.force)
    else:
        _arrow()


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise require_extra("pyarrow", "parquet") from None
    return pyarrow


def _features(session: Session, sources: Sequence[str], strict: bool) -> tuple[list[str], npt.NDArray[np.float32], int]:
    """Names and features of pictures, and how many could not be read."""
    from ..data.inputs import open_inputs

    names: list[str] = []
    rows: list[npt.NDArray[np.float32]] = []
    with open_inputs(list(sources)) as inputs:
        needed, progress = session.preprocessing.needed, Progress("embedding")
        pictures = PreparedPictures(inputs, session.preprocess, progress, strict=strict, needed=needed)
        for picture, image in pictures:
            rows.append(session.embed(image)[0])
            names.append(picture.name)
    if not rows:
        raise UserError(f"none of the pictures of {listed(sources)} can be read")
    return names, np.stack(rows), pictures.failed


def _write(path: Path, names: list[str], features: npt.NDArray[np.float32]) -> None:
    from ..files import write_atomically

    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, features)
        # Names of files may hold line breaks; a picture has one line.
        lines = "".join(f"{name.translate(_BREAKS)}\n" for name in names).encode(errors="surrogateescape")
        write_atomically(path, buffer.getvalue())
        try:
            write_atomically(path.with_suffix(".txt"), lines)
        except UserError:
            path.unlink()  # never the rows of these pictures without their names, or with others'
            raise
        return
    arrow = _arrow()
    flat = arrow.array(features.reshape(-1))
    columns = {
        "image": arrow.array([name.encode(errors="replace").decode() for name in names]),
        "features": arrow.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    arrow.parquet.write_table(arrow.table(columns), buffer)
    write_atomically(path, buffer.getvalue())


def _print(result: dict[str, Any]) -> None:
    if "out" in result:
        print(f"{result['out']}: {counted(result['images'], 'picture')}, {result['channels']} numbers each")
    for pair in result.get("duplicates", ()):
        print(f"{pair['similarity']:.4f}  {pair['first']}  {pair['second']}")
    if result.get("duplicates") == []:
        report("no near duplicates")
    for name in result.get("label_next", ()):
        print(name)
