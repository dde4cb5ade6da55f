"""`bhvit web`: a static site that runs models in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError, counted
from .console import Subparsers, command

_DESCRIPTION = """\
Write a static site that runs models in the browser: drop, choose or paste a picture, or use the camera. It names what
is in a picture and shows what the answer depends on, or draws the labels of its pixels.

It works from any static host (camera and offline use need HTTPS or localhost), makes no request to other hosts, and
works offline once loaded. Pictures stay on the visitor's device. With --out NAME.html it is one file, which needs no
server."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "web",
        "write a static site that runs models in the browser",
        _DESCRIPTION,
        "bhvit web cifar10 --out site\nbhvit web photos.bhv cifar10 --out site --force --examples photos",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a .bhv file or a bundled model's name")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write, or one file.html")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help="a folder with a folder of pictures for each class; the site shows the first few of each",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into a folder that has files already, or replace a file"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the site, or the page; 0. Raises UserError."""
    from ..files import check_absent, check_folder, write_atomically
    from ..text import size_text
    from ..web import single_file, site_files, write_site

    if args.out.suffix.lower() in (".html", ".htm"):
        check_absent(args.out, args.force)
        write_atomically(args.out, single_file(site_files(args.models, examples=args.examples)).encode())
        print(f"{args.out}: {size_text(args.out.stat().st_size)}")
        return 0
    check_folder(args.out)
    if args.out.is_dir() and any(args.out.iterdir()) and not args.force:
        raise UserError(f"{args.out} is not empty; --force writes into it")
    names = write_site(args.models, args.out, examples=args.examples)
    print(f"{args.out}: {counted(len(names), 'file')}; try it with `python -m http.server --directory {args.out}`")
    return 0
