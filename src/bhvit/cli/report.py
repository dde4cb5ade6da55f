"""`bhvit report`: measure a run and its packed file, and write an HTML page."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ..errors import UserError
from ..text import size_text
from .console import Progress, Subparsers, add_max_memory, command, packed_file, positive, split_name

_DESCRIPTION = """\
Write one self-contained HTML page about a run: training curves, confusion matrix, samples, sizes, speeds,
and how well the packed file agrees with PyTorch; of a segmentation each class, overlays and the worst images.
Everything but the curves is measured when the page is made, on the test images (where the data has none, the
validation images, by which `best` was chosen)."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "report",
        "write an HTML page about a run",
        _DESCRIPTION,
        "bhvit report runs/photos\nbhvit report runs/photos --model photos.bhv --out photos.html",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder that `bhvit train` wrote")
    parser.add_argument("--out", type=Path, metavar="FILE", help="page to write (default RUN/report.html)")
    parser.add_argument("--force", action="store_true", help="replace an existing page")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which one (default best)")
    parser.add_argument(
        "--model",
        type=packed_file,
        metavar="FILE.bhv",
        help="packed file (default RUN/model.bhv, or one packed for the occasion)",
    )
    parser.add_argument("--data", help="images (default: those the run was trained on)")
    parser.add_argument(
        "--split", type=split_name, default="test", help="train, validation, test (default, else validation) or all"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="measure N images, evenly chosen (default all)")
    add_max_memory(parser)
    parser.add_argument(
        "--corruptions",
        action="store_true",
        help="also measure accuracy on corrupted images: 35 times the work, so combine it with --limit",
    )
    parser.add_argument(
        "--browser", action="store_true", help="also embed the model, to be run in the browser (needs `make web`)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure a run and write its page; 0. Raises UserError."""
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a run: there is no such folder")
    from ..files import check_absent
    from ..report.build import write_report
    from ..report.measure import measure_run
    from ..train.run_folder import RunFolder
    from ..web import single_file, site_files
    from ..web.site import find_library

    if args.browser:
        find_library()  # known before anything is measured
    folder = args.folder
    out = args.out or folder / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} must end in .html: the report is a page for browsers")
    settings = RunFolder(folder).settings()
    check_absent(out, args.force)
    checkpoint = folder / f"{args.checkpoint}.safetensors"
    with ExitStack() as stack:
        packed = args.model or folder / "model.bhv"
        if not args.model and not packed.exists():
            from ..models import load_checkpoint
            from ..packing import pack

            packed = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.bhv"
            pack(load_checkpoint(checkpoint), packed)
        found = measure_run(
            folder,
            checkpoint,
            packed,
            settings,
            data=args.data,
            split=args.split,
            limit=args.limit,
            max_memory=args.max_memory,
            corruptions=args.corruptions,
            progress=Progress,
        )
        write_report(found, out, single_file(site_files([packed])) if args.browser else "")
    print(f"{out}: {size_text(out.stat().st_size)}")
    return 0
