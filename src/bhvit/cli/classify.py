"""`bhvit classify`: what is in these images? Needs neither PyTorch nor the training set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import bundled
from ..data.folders import FolderStore
from ..errors import UserError
from .console import Progress, Subparsers, add_engine, add_json, command, positive, print_json

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .ico .jp2 .j2k .avif "
    ".avifs .heic .heif".split()
)
"""Endings of files in a folder that are taken for images; one that cannot be decoded is then named."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "classify",
        "name what is in images, with a packed model",
        "Classify images with a .bhv file, or without one with the bundled model, which knows the ten classes of\n"
        "CIFAR-10. A damaged image is named and the others are still answered; the exit status is then 2.",
        "bhvit classify cat.jpg\nbhvit classify model.bhv cat.jpg --top 3\n"
        "bhvit classify model.bhv holiday/ --json > answers.json",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="[MODEL] IMAGE",
        help="a packed model (a file or a bundled name), image files, folders of them",
    )
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes an image (default 5)")
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged image")
    add_engine(parser)
    parser.add_argument(
        "--max-memory",
        type=positive,
        default=512,
        metavar="MIB",
        help="memory that a model may take next to its file (default 512); raise it only for files you trust",
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..runtime import Session

    model, images = _split(args.images)
    paths = find_images(images)
    session = Session(model, threads=args.threads, isa=args.isa, max_memory=args.max_memory << 20)
    introduce = not args.json and model == Path(bundled.DEFAULT)  # before the first answer: an error stands alone
    progress = Progress("classifying")
    answers: list[dict[str, Any]] = []
    damaged = 0
    for done, path in enumerate(paths):
        if len(paths) > 1:
            progress(done, len(paths))
        try:
            classes = session.classify(path, top=args.top)
        except UserError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            if args.strict:
                raise UserError(message) from None
            damaged += 1
            progress.clear()
            print(f"bhvit: {message}", file=sys.stderr)
            answers.append({"image": str(path), "error": message})
            continue
        answers.append(
            {
                "image": str(path),
                "classes": [{"name": name, "probability": float(probability)} for name, probability in classes],
            }
        )
        if not args.json:
            progress.clear()
            if introduce:
                print(f"bundled model {model}, which knows: {', '.join(session.class_names)}", file=sys.stderr)
                introduce = False
            _show(path, classes)
    progress.clear()
    if args.json:
        print_json(answers)
    if damaged:
        if len(paths) > 1:
            print(f"bhvit: {damaged} of {len(paths)} images could not be read", file=sys.stderr)
        return 2
    return 0


def _split(named: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """The model, which comes first or is the bundled one, and the images. Raises UserError if there is no image."""
    first, *rest = named
    if not bundled.is_packed(first):
        return Path(bundled.DEFAULT), named
    if not rest:
        raise UserError(f"no image to classify with {first}: name image files or folders after it")
    return first, rest


def find_images(named: Sequence[Path]) -> list[Path]:
    """Return files as they are named, and the image files in folders, at any depth, as training finds them.

    Raises UserError for what does not exist and for a folder without images.
    """
    paths: list[Path] = []
    for path in named:
        if str(path).startswith(("http:/", "https:/")):
            raise UserError(f"{str(path).replace(':/', '://', 1)} is an address; download the image and give its path")
        if not path.exists():
            models = f"; a model is named first: a .bhv file, or {', '.join(bundled.list_bundled())}"
            raise UserError(f"there is no image or folder {path}{'' if path.suffix else models}")
        if not path.is_dir():
            paths.append(path)
            continue
        inside = FolderStore(path)
        chosen = [path / member for member in inside.members if Path(member).suffix.lower() in IMAGE_SUFFIXES]
        if not chosen:
            raise UserError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES)[:8])}, …)")
        paths += chosen
    return paths


def _show(path: Path, classes: Sequence[tuple[str, float]]) -> None:
    print(path)
    for name, probability in classes:
        print(f"  {100 * probability:5.1f} %  {name}")
