"""`bhvit classify`: what is in these pictures? Needs neither PyTorch nor the training set."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..calibration import MISS_RATE
from ..errors import UserError, counted, listed, report
from ..text import some
from .console import (
    Progress,
    Subparsers,
    add_engine,
    add_json,
    add_sources,
    command,
    fraction,
    positive,
    print_json,
    report_unread,
    split_model,
)

if TYPE_CHECKING:
    from ..data.inputs import Inputs
    from ..runtime import Session
    from ..runtime.results import Results
    from ..runtime.session import Streamed
    from .show import Window


COMPARED = 3
"""Pictures of a finished file that `--resume` answers again, to see that model and options are the same."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "classify",
        "name what is in images, with a packed model",
        "Classify images with a .bhv file, or without one with the bundled model, which knows the ten classes of\n"
        "CIFAR-10. A damaged image is named and the others are still answered; the exit status is then 2.",
        "bhvit classify cat.jpg\nbhvit classify model.bhv cat.jpg --top 3\nbhvit classify cat.jpg --model model.bhv\n"
        "bhvit classify model.bhv holiday/ --json > answers.json\n"
        "bhvit classify model.bhv 'photos/**/*.jpg' more.zip --out answers.jsonl --resume\n"
        "find photos -name '*.jpg' -print0 | bhvit classify model.bhv - --out answers.csv\n"
        "bhvit classify model.bhv rtsp://camera.local/stream --show",
    )
    add_sources(parser)
    parser.add_argument("--top", type=positive, default=5, metavar="N", help="classes an image (default 5)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the answers to a .jsonl, .csv or .parquet file (extra 'parquet'), whole at the end",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="where to run: here (default), or on a Ray cluster"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster; default: one on this machine")
    parser.add_argument(
        "--unknown", action="store_true", help="say of each image whether it is unlike those that the model knows"
    )
    parser.add_argument(
        "--miss-rate",
        type=fraction,
        default=MISS_RATE,
        metavar="F",
        help=f"with --unknown: share of known images that may be taken for unknown, 0 to 1 (default {MISS_RATE})",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first damaged image")
    add_engine(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Classify and print; 0, or 2 if a picture could not be read. Raises UserError."""
    from ..data.inputs import open_inputs
    from ..runtime import Session

    model, sources = split_model(args, "classify")
    if args.out is None and (args.resume or args.force):
        raise UserError("--resume and --force are about a file: name it with --out FILE.jsonl")
    if args.resume and args.force:
        raise UserError("--resume goes on with answers that are there, --force replaces them: give one of them")
    if args.out is not None and args.json:
        raise UserError("--json prints the answers, --out writes them: give one of them")
    if args.address is not None and args.engine != "ray":
        raise UserError("--address is that of a Ray cluster: give --engine ray with it")
    if args.unknown and args.engine == "ray":
        raise UserError("--unknown works on this machine only: leave --engine ray out")
    with ExitStack() as stack:
        inputs = stack.enter_context(open_inputs(sources, every=args.every))
        if args.json and inputs.live:
            raise UserError("--json prints at the end, and a live source has none: use --out FILE.jsonl")
        session = Session(model, threads=args.threads, isa=args.isa, max_memory=args.max_memory)
        if session.task != "classify":
            raise UserError(f"{model} labels pixels: bhvit segment runs it")
        results = None
        if args.out is not None:
            results = stack.enter_context(_open_results(args, session))
            if results.complete:
                return _check_finished(args, inputs, session, results)
        window = None
        if args.show:
            from .show import Window

            window = stack.enter_context(Window(f"bhvit {model}"))
        if not args.json and results is None and model == Path(bundled.DEFAULT):
            introduction = f"bundled model {model}, which knows: {listed(session.class_names)}"
        else:
            introduction = None
        for note in inputs.notes:
            report(note)
        answers = _Answers(args, inputs, results, window, introduction)
        if args.engine == "ray":
            from ..integrations.ray import Engine

            engine = Engine(
                model,
                top=args.top,
                workers=args.workers,
                threads=args.threads,
                address=args.address,
                isa=args.isa,
                max_memory=args.max_memory,
            )
            return answers.take(stack.enter_context(engine).stream(inputs))
        stream = session.stream(
            inputs, args.top, workers=args.workers or "auto", unknown=args.unknown, miss_rate=args.miss_rate
        )
        return answers.take(stream)


class _Answers:
    """The answers of a run, printed, shown and written as they come."""

    def __init__(
        self,
        args: argparse.Namespace,
        inputs: Inputs,
        results: Results | None,
        window: Window | None,
        introduction: str | None,
    ) -> None:
        self._args, self._inputs, self._results, self._window = args, inputs, results, window
        self._introduction = introduction  # printed before the first answer: an error stands alone
        self._records: list[dict[str, Any]] = []
        self._progress = Progress("classifying")
        self._count = self._failed = 0

        if results is not None:
            inputs.skip(results.done)

    def take(self, stream: Iterator[Streamed]) -> int:
        """Take every answer and return the exit status."""
        begin = time.perf_counter()
        total = self._inputs.total
        if self._results is not None:
            total = None if total is None else max(0, total - sum(self._results.done.values()))
        try:
            for streamed in stream:
                self._count += 1
                self._take(streamed)
                if total != 1:
                    dropped = f", {counted(self._inputs.dropped, 'late frame')} dropped" if self._inputs.live else ""
                    self._progress(self._count, total, dropped)
                if self._window is not None and not self._window.open:
                    break
        except KeyboardInterrupt:
            if not self._inputs.live:
                raise
        finally:
            self._progress.clear()
        return self._end(time.perf_counter() - begin)

    def _take(self, streamed: Streamed) -> None:
        if streamed.error is not None and self._args.strict:
            raise streamed.error
        record = as_record(streamed)
        if self._results is not None:
            self._results.write(record)
        elif self._args.json:
            self._records.append(record)
        if streamed.error is not None:
            self._failed += 1
            self._progress.clear()
            report(str(streamed.error))
            return
        assert streamed.classes is not None
        if self._results is None and not self._args.json:
            self._progress.clear()
            if self._introduction:
                report(self._introduction)
                self._introduction = None
            _print(streamed.name, streamed.classes, streamed.unknown)
        if self._window is not None:
            lines = [f"{100 * probability:5.1f} %  {name}" for name, probability in streamed.classes]
            self._window.show(streamed.picture.image(), lines)

    def _end(self, seconds: float) -> int:
        failed, count = self._failed, self._count
        if self._args.json:
            print_json(self._records)
        if self._results is not None:
            self._results.finish()
            failed, count = self._results.failed, sum(self._results.done.values())
        if self._results is not None or self._inputs.live:
            rate = (
                f"{counted(self._count, 'image')} in {seconds:.1f} s, {self._count / max(seconds, 1e-9):.1f} a second"
            )
            late = f", {counted(self._inputs.dropped, 'late frame')} dropped" if self._inputs.live else ""
            report(f"{rate}{late}")
        report_unread(failed, count)
        return 2 if failed else 0


def as_record(streamed: Streamed) -> dict[str, Any]:
    """An answer as JSON holds it."""
    record: dict[str, Any] = {"image": streamed.name}
    if streamed.seconds is not None:
        record["seconds"] = streamed.seconds
    if streamed.error is not None:
        return {**record, "error": str(streamed.error)}
    classes = [{"name": name, "probability": float(probability)} for name, probability in streamed.classes or ()]
    if streamed.unknown is not None:
        record["unknown"] = streamed.unknown
    return {**record, "classes": classes}


def _open_results(args: argparse.Namespace, session: Session) -> Results:
    from ..runtime.results import Columns, Results

    classes = min(args.top, len(session.class_names))
    columns: dict[str, type[str] | type[float]] = {"image": str, "seconds": float, "error": str}
    if args.unknown:
        columns["unknown"] = str
    for place in range(1, classes + 1):
        columns |= {f"class_{place}": str, f"probability_{place}": float}

    def row(record: Mapping[str, Any]) -> Mapping[str, Any]:
        found = {name: record.get(name) for name in ("image", "seconds", "error")}
        if "unknown" in record:
            found["unknown"] = "yes" if record["unknown"] else "no"
        for place, answer in enumerate(record.get("classes", ()), 1):
            found |= {f"class_{place}": answer["name"], f"probability_{place}": answer["probability"]}
        return found

    table: Columns = columns
    model = hashlib.sha256(session.program.header).hexdigest()
    made_by = {"command": "classify", "model": model, "top": args.top, "every": args.every}
    if args.unknown:
        made_by["miss_rate"] = args.miss_rate
    return Results(args.out, table, row, made_by=made_by, resume=args.resume, force=args.force)


def _check_finished(args: argparse.Namespace, inputs: Inputs, session: Session, results: Results) -> int:
    """Compare a finished file with what this run would write, and return the exit status.

    All pictures must be in it, and the first `COMPARED` are answered again. Raises UserError if they differ.
    """
    instead = "--force in place of --resume answers all of them again; another --out leaves it as it is"
    if inputs.live:
        raise UserError(f"{args.out} is finished, and a live source cannot be compared with it: {instead}")
    rows = results.read_finished(COMPARED)
    named: Counter[str] = Counter()

    def wanted(name: str) -> bool:
        named[name] += 1
        return name in rows and named[name] == 1

    inputs.choose(wanted)
    for streamed in session.stream(inputs, args.top, workers=1, unknown=args.unknown, miss_rate=args.miss_rate):
        if results.as_row(as_record(streamed)) != rows[streamed.name]:
            raise UserError(
                f"{args.out} is finished and has another answer for {streamed.name}: it was made with another model or "
                f"other options, or the picture has changed; {instead}"
            )
    if missing := list((named - results.done).elements()):
        raise UserError(f"{args.out} is finished and has no answer for {some(missing)}; {instead}")
    report(f"{args.out} is complete, and its answers are those of this model")
    report_unread(results.failed, sum(results.done.values()))
    return 2 if results.failed else 0


def _print(name: str, classes: Sequence[tuple[str, float]], unknown: bool | None) -> None:
    print(f"{name}{'  unknown: unlike the images that the model knows' if unknown else ''}")
    for label, probability in classes:
        print(f"  {100 * probability:5.1f} %  {label}")
