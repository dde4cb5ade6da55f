"""`bhvit segment`: which class has each pixel? Needs neither PyTorch nor the training set."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted, report
from ..files import check_folder
from .console import (
    Progress,
    Subparsers,
    add_engine,
    add_sources,
    check_outside,
    command,
    report_unread,
    split_model,
)

if TYPE_CHECKING:
    from ..runtime import Session
    from ..runtime.label_maps import Labels
    from ..runtime.session import Streamed

_LONGEST = 150
"""Bytes of an image's name that its results keep: file systems take 255, with what is added."""
_MADE_BY = "bhvit"
"""Text of a label map's file that says what made it."""


def add_parser(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "segment",
        "label each pixel of images, with a packed model",
        "Segment images with a .bhv file. The folder of --out gets, for each image, NAME.png, whose pixels are\n"
        "numbers of classes, with a palette, and NAME.overlay.jpg, the image with the classes' colours over it.",
        "bhvit segment streets.bhv street.jpg --out masks\n"
        "bhvit segment streets.bhv drive.mp4 --every 5 --out masks\n"
        "bhvit segment street.jpg --model streets.bhv --windows --out masks",
    )
    add_sources(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results; without it shares are printed")
    parser.add_argument(
        "--windows", action="store_true", help="cover large images by windows of the model's size; default: resize them"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.25, metavar="F", help="share of a window that the next one covers (0.25)"
    )
    parser.add_argument("--no-overlay", action="store_true", help="write the label maps alone")
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged image")
    add_engine(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment and write; 0, or 2 if an image could not be read. Raises UserError."""
    from ..data.inputs import open_inputs
    from ..runtime import Session
    from ..runtime.label_maps import check_overlap

    model, sources = split_model(args, "segment", default=None)
    check_overlap(args.overlap)
    if args.out is None and (args.resume or args.force):
        raise UserError("--resume and --force are about a folder: name it with --out DIR")
    if args.resume and args.force:
        raise UserError("--resume goes on with label maps that are there, --force replaces them: give one of them")
    if args.out is not None:
        check_folder(args.out)
        check_outside(args.out, sources)
    with ExitStack() as stack:
        inputs = stack.enter_context(open_inputs(sources, every=args.every))
        session = Session(model, threads=args.threads, isa=args.isa, max_memory=args.max_memory)
        if session.task != "segment":
            raise UserError(f"{model} classifies images: bhvit classify names what is in them")
        results = _Results(args, session)
        if args.show:
            from .show import Window

            results.window = stack.enter_context(Window(f"bhvit {model}"))
        for note in inputs.notes:
            report(note)

        inputs.choose(results.wants)
        total = inputs.total
        stream = session.stream(inputs, workers=args.workers or "auto", windows=args.windows, overlap=args.overlap)
        begin = time.perf_counter()
        try:
            for streamed in stream:
                results.take(streamed, total)
                if results.window is not None and not results.window.open:
                    break
        except KeyboardInterrupt:
            if not inputs.live:
                raise
        finally:
            results.progress.clear()
        return results.end(time.perf_counter() - begin)


class _Results:
    """What is written, printed and shown of each image."""

    def __init__(self, args: argparse.Namespace, session: Session) -> None:
        self._args, self._names = args, session.class_names
        self.window: Any = None
        self.progress = Progress("segmenting")
        self._count = self._failed = self._kept = 0
        self._used: set[str] = set()
        self._made_by = {
            "model": hashlib.sha256(session.program.header).hexdigest(),
            "windows": args.overlap if args.windows else None,
        }
        self._places: list[str] = []
        if args.out is not None:
            try:
                args.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write {args.out}: {error.strerror}") from None

    def wants(self, name: str) -> bool:
        """Whether an image is to be segmented; called once an image, in order.

        It is not if --resume finds its label map. Raises UserError for label maps of another model or without --force.
        """
        place = self._place(name)
        if self._args.out is not None:
            path = self._args.out / f"{place}.png"
            there = path.exists()
            if there and self._args.resume:
                if made_by(path) != self._note(name):
                    raise UserError(
                        f"{path} was made by another model or with other options, or of another image than {name}: "
                        "give the same ones, --force to replace it, or another folder"
                    )
                self._kept += 1
                return False
            if there and not self._args.force:
                raise UserError(f"{path} exists: --force replaces it, --resume goes on with what is missing")
        self._places.append(place)
        return True

    def take(self, streamed: Streamed, total: int | None) -> None:
        """Write one answer."""
        from ..runtime.overlays import jpeg, legend, overlay
        from ..runtime.pipeline import with_name

        picture, labels, error = streamed.picture, streamed.labels, streamed.error
        self._count += 1
        place = self._places.pop(0)
        written = self._args.out is not None and not self._args.no_overlay
        drawn, encoded = None, None
        if labels is not None and (written or self.window is not None):
            try:  # decodes the picture again, which may be gone by now
                drawn = overlay(picture.image(), labels, len(self._names))
                encoded = jpeg(drawn) if written else None
            except UserError as failed:
                error = with_name(failed, picture.name)
        if error is not None or labels is None:
            if self._args.strict and error is not None:
                raise error
            self._failed += 1
            self.progress.clear()
            report(str(error))
            return
        if self._args.out is not None:
            self._write(place, self._note(picture.name), encoded, labels)
        else:
            self.progress.clear()
            print(picture.name)
            for line in legend(labels, self._names):
                print(f"  {line}")
        if self.window is not None:
            self.window.show(drawn, legend(labels, self._names))
        if total != 1:
            self.progress(self._count + self._kept, total)

    def _note(self, name: str) -> str:
        """What a label map keeps of how it was made: --resume goes on among maps of the same images and options."""
        try:
            size = Path(name).stat().st_size
        except (OSError, ValueError):  # a member of an archive, a frame, an address
            size = None
        return json.dumps({**self._made_by, "image": name, "bytes": size})

    def _write(self, place: str, made_by: str, drawn: bytes | None, labels: Labels) -> None:
        import io

        from PIL.PngImagePlugin import PngInfo

        from ..files import write_atomically
        from ..runtime.overlays import index_image

        if drawn is not None:
            write_atomically(self._args.out / f"{place}.overlay.jpg", drawn)
        data = io.BytesIO()
        note = PngInfo()
        note.add_text(_MADE_BY, made_by)
        index_image(labels, len(self._names)).save(data, "PNG", pnginfo=note)
        write_atomically(self._args.out / f"{place}.png", data.getvalue())  # last: --resume looks for it

    def end(self, seconds: float) -> int:
        """Say how it went and return the exit status."""
        if self._args.out is not None:
            rate = self._count / max(seconds, 1e-9)
            kept = f", {counted(self._kept, 'was', 'were')} there" if self._kept else ""
            done = f"{counted(self._count, 'image')} in {seconds:.1f} s, {rate:.1f} a second{kept}"
            written = f"label maps{'' if self._args.no_overlay else ' and overlays'} are in {self._args.out}"
            report(f"{done}; {written}" if self._count + self._kept > self._failed else done)
        report_unread(self._failed, self._count)
        return 2 if self._failed else 0

    def _place(self, name: str) -> str:
        """The name of an image's results, without ending; a second image of a name gets a number."""
        base = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
        stem = re.sub(r"[^\w.-]+", "_", re.sub(r"\.\w{1,5}$", "", base)) or "image"
        if len(stem.encode()) > _LONGEST:
            stem = f"{stem.encode()[:_LONGEST].decode(errors='ignore')}-{zlib.crc32(stem.encode()):08x}"
        place, number = stem, 1
        while place in self._used:
            number += 1
            place = f"{stem}-{number}"
        self._used.add(place)
        return place


def made_by(path: Path) -> str | None:
    """What made a label map, as its file notes it; None of other files."""
    from PIL import Image

    from ..files import check_regular

    check_regular(path)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            found = image.info.get(_MADE_BY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return found if isinstance(found, str) else None
