"""Shared by the commands: parsers with examples, tables, progress bars, JSON, model arguments."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..errors import UserError, report, shown
from ..system import MAX_THREADS, allowed_cores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..data.inputs import Inputs, Picture
    from ..decode import Needed

Subparsers = Any
"""What `add_subparsers` returns; argparse keeps its type private."""


def command(subparsers: Subparsers, name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    """Add a command's parser and return it.

    `summary` is for the list of commands, the rest for the command's own --help.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines()),
    )
    return parser


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--threads, --isa and --max-memory."""
    parser.add_argument(
        "--threads",
        type=threads,
        default=1,
        metavar="N",
        help="threads of the engine (default 1); auto takes the cores that this process may use",
    )
    parser.add_argument("--isa", default="auto", help="instruction set: auto (default) takes the best there is")
    add_max_memory(parser)


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """--max-memory, in bytes once parsed; None where it is not given."""
    parser.add_argument(
        "--max-memory",
        type=mebibytes,
        metavar="MIB",
        help="memory that a packed model may take next to its file (default 512); raise it only for files you trust",
    )


def add_sources(parser: argparse.ArgumentParser, what: str = "[MODEL] SOURCE") -> None:
    """Add the arguments for pictures: `sources`, --model, --every, --workers, --show, --resume, --force."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar=what,
        help="a packed model (a file or a bundled name), then image files, folders, patterns (quoted: 'a/**/*.jpg'), "
        ".zip, .tar and .parquet files, videos, the number of a camera, http, https or rtsp addresses, or - for a list "
        "of paths and addresses on standard input",
    )
    add_model(parser)
    parser.add_argument(
        "--workers",
        type=threads,
        metavar="N",
        help="images decoded and run at the same time (default: the cores that this process may use, by --threads)",
    )
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="of videos, take every N-th frame")
    parser.add_argument("--show", action="store_true", help="show each image with its answer in a window")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the --out of an interrupted run; nothing is answered twice"
    )
    parser.add_argument("--force", action="store_true", help="replace the file of --out")


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model, for `split_model`."""
    parser.add_argument(
        "--model", metavar="MODEL", help="the packed model (a file or a bundled name), instead of as the first argument"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def add_set(parser: argparse.ArgumentParser, text: str) -> None:
    """--set KEY=VALUE, as often as wanted."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def fraction(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction from 0 to 1")
    return value


def split_name(text: str) -> str:
    """A split for argparse, by any word that names of files say it with: val, Valid, dev."""
    from ..data.splits import split_of

    try:
        return text.lower() if text.lower() == "all" else split_of(text) or text
    except UserError:  # of several splits: it is none
        return text


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of at least 1")
    return int(text)


def mebibytes(text: str) -> int:
    """A number of MiB for argparse, as bytes."""
    count = positive(text)
    if count >= 1 << 44:
        raise argparse.ArgumentTypeError(f"{text!r} is more MiB than there can be")
    return count << 20


def threads(text: str) -> int:
    """Parse a number of threads for argparse.

    "auto" and 0 are the cores that this process may use.
    """
    return allowed_cores() if text in ("auto", "0") else positive(text)


def processes(text: str) -> int:
    """A number of processes for argparse."""
    count = positive(text)
    if count > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MAX_THREADS}")
    return count


def positives(text: str) -> list[int]:
    """Whole numbers of at least 1 separated by commas, for argparse."""
    return sorted({positive(part.strip()) for part in text.split(",")})


def print_json(value: Any) -> None:
    """Print `value` as JSON; pure ASCII where standard output is not UTF-8."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False))


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), right: bool = True, indent: str = "  ") -> str:
    """Return rows as lines of aligned columns.

    The first column is aligned left and the others right, or all of them left.
    """
    lines = [list(header), *rows] if header else list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        indent
        + "  ".join(
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


class Progress:
    """A progress line on standard error, callable as (done, total, note).

    It is drawn on terminals only, and erased at the end. Without a total, as for a stream, it shows how many are done
    and how many a second.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._begin = time.perf_counter()
        self._drawn = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        now = time.perf_counter()
        ended = total is not None and done >= total
        if not self._live or (not ended and now - self._drawn < 0.1):
            return
        self._drawn = now
        rate = done / max(now - self._begin, 1e-9)
        if total is None:
            sys.stderr.write(f"\r\033[K{self._what} {done}, {rate:.1f} a second{note}")
        else:
            left = (now - self._begin) * (total - done) / max(done, 1)
            filled = round(24 * done / max(total, 1))
            bar = "█" * filled + "░" * (24 - filled)
            sys.stderr.write(f"\r\033[K{self._what} {bar} {done}/{total}, {left:.0f} s left{note}")
        if ended:
            self.clear()
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def report_unread(failed: int, count: int) -> None:
    """Say how many of several pictures could not be read, if any."""
    if failed and count > 1:
        report(f"{failed} of {count} images could not be read")


class PreparedPictures:
    """The pictures of sources that end, each with its prepared image (1, C, H, W).

    What was left out is said. Pictures that cannot be read are said and counted in `failed`; with `strict` the first
    one raises UserError.
    """

    def __init__(
        self,
        inputs: Inputs,
        prepare: Callable[[Any], npt.NDArray[np.float32]],
        progress: Progress,
        *,
        strict: bool,
        needed: Needed | None = None,
        what: str = "a live source",
    ) -> None:
        """Take pictures that are decoded as `needed` says (`Preprocess.needed`).

        Raises UserError if `inputs`, called `what` there, are live.
        """
        if inputs.live:
            raise UserError(f"{what} never ends: name pictures, folders, archives or videos")
        self._inputs, self._prepare, self._progress, self._strict = inputs, prepare, progress, strict
        self._needed = needed
        self.failed = 0

    def __iter__(self) -> Iterator[tuple[Picture, npt.NDArray[np.float32]]]:
        for note in self._inputs.notes:
            report(note)
        done = 0
        for done, picture in enumerate(self._inputs, 1):
            try:
                image = self._prepare(picture.image(self._needed))
            except UserError as error:
                if self._strict:
                    raise
                self.failed += 1
                self._progress.clear()
                report(f"skipped: {error}")
                continue
            yield picture, image
            self._progress(done, self._inputs.total)
        self._progress.clear()
        report_unread(self.failed, done)


def split_model(
    args: argparse.Namespace, doing: str, default: str | None = bundled.DEFAULT
) -> tuple[Path, Sequence[str]]:
    """Split `args.sources` into the model and its sources.

    The model is --model, or comes first, or is the `default`. Raises UserError if there are two models, none, or no
    source for `doing`.
    """
    sources: list[str] = list(args.sources)
    first, model = sources[0], args.model
    packed = bool(first) and "://" not in first and bundled.is_packed(first)
    if packed and model is not None:
        raise UserError(f"{first} and --model {model} are two models: give one of them")
    if packed:
        model = sources.pop(0)
    elif model is None and default is None:
        raise UserError(
            f"no model is named: bhvit {doing} MODEL.bhv {first}, or --model MODEL.bhv{bundled.hint(first)}"
        )
    if not sources:
        raise UserError(f"no image to {doing} with {model}: name image files or folders after it")
    return Path(model or default or ""), sources


def usual_split(splits: Sequence[str]) -> str:
    """Return the split to measure where none is named.

    Of a folder without splits, made for this, all images: nothing is held out of it.
    """
    return "test" if splits else "all"


def part_text(split: str, asked: str | None) -> str:
    """Say which images were measured, where it matters for what the numbers mean; `asked` is the split that was named.

    The text follows a number of images.
    """
    if split == "all":
        hint = " (all; if the model was trained on them, --split validation takes those it did not see)"
        return "" if asked else hint
    return f" of the split {split}" + (", on which a run's best model is chosen" if split == "validation" else "")


def packed_file(text: str) -> Path:
    """Parse a packed model's path or name for argparse."""
    return bundled.find(text, ".bhv")


def check_outside(out: Path, sources: Sequence[str]) -> None:
    """Raise UserError if pictures would be written among those to be read.

    That is, if the folder to write lies within a folder to read.
    """
    for source in sources:
        if Path(source).is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
            raise UserError(
                f"--out {out} lies within {source}, and what is written there would be read as pictures: name a folder "
                "elsewhere"
            )


def checkpoint_file(text: str) -> Path:
    """A checkpoint as an argument, likewise."""
    return bundled.find(text, ".safetensors")
