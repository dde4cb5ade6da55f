"""`bhvit bench`: milliseconds an image, by threads, batch and instruction set, with PyTorch for comparison."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..errors import UserError, counted
from ..text import count_text, describe, size_text
from .console import (
    Progress,
    Subparsers,
    add_json,
    add_max_memory,
    checkpoint_file,
    command,
    packed_file,
    positives,
    print_json,
    table,
)

if TYPE_CHECKING:
    from ..timing import Timing

_DESCRIPTION = """\
Measure a packed model on this machine. Every combination of --threads, --batch and --isa runs in turns of
a twentieth of a second with all others, after a warm-up; the median, 10th and 90th percentile of all calls
are shown, in milliseconds an image. The images are noise, already prepared: what is timed is the model, of
a segmentation until each pixel has its label.
With --torch the checkpoint runs in PyTorch (float32, eager, inference mode) in the same turns, on the same
images with the same number of threads.
With --profile each op is timed: its share of the whole call, the binary and full-precision
multiply-accumulates it does a second (global tokens of attention counted once, as the engine projects
them), and of its limit: the time that loops on registers alone need for as many of both."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to `bhvit`."""
    parser = command(
        subparsers,
        "bench",
        "milliseconds an image, with PyTorch for comparison",
        _DESCRIPTION,
        "bhvit bench model.bhv --threads 1,2 --batch 1,8 --isa all\n"
        "bhvit bench model.bhv --torch checkpoint.safetensors\nbhvit bench model.bhv --profile",
    )
    parser.add_argument("model", type=packed_file, help="packed model (.bhv), or the name of a bundled one")
    parser.add_argument("--threads", type=positives, default=[1], metavar="N,…", help="thread counts (default 1)")
    parser.add_argument("--batch", type=positives, default=[1], metavar="N,…", help="batch sizes (default 1)")
    parser.add_argument(
        "--isa", default="auto", metavar="NAME,…", help="instruction sets: auto (default), all, or names"
    )
    parser.add_argument(
        "--torch", type=checkpoint_file, metavar="CHECKPOINT", help="compare with this checkpoint in PyTorch"
    )
    parser.add_argument("--seconds", type=_seconds, default=2.0, help="time for each combination (default 2)")
    parser.add_argument("--profile", action="store_true", help="time each op (batch 1)")
    add_max_memory(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Time the model and print; 0. Raises UserError."""
    from ..format import file as bhv_file
    from ..system import environment
    from ..timing import BUSY, busy, measure
    from ..timing.profile import profile_ops
    from ..timing.runs import native_runs, torch_runs

    file = bhv_file.read(args.model)
    if args.torch:
        bundled.check_name(args.torch, ".safetensors")
    isas = _isas(args.isa)
    memory = args.max_memory
    runs = native_runs(args.model, file, isas=isas, threads=args.threads, batches=args.batch, max_memory=memory)
    if args.torch:
        runs += torch_runs(args.torch, args.model, threads=args.threads, batches=args.batch)
    progress = Progress("measuring")
    timings = measure(runs, args.seconds, progress)
    profiles = []
    if args.profile:
        profiles = [profile_ops(args.model, file, isa, n, args.seconds, memory) for isa in isas for n in args.threads]
    where = environment()
    sizes = {"packed": args.model.stat().st_size}
    if args.torch:
        sizes["checkpoint"] = args.torch.stat().st_size
    if args.json:
        print_json(
            {
                "model": describe(file.spec),
                "environment": where,
                "bytes": sizes,
                "milliseconds_per_image": [dataclasses.asdict(timing) for timing in timings],
                "profiles": profiles,
            }
        )
        return 0
    print(f"{describe(file.spec)}, {', '.join(f'{kind} {size_text(size)}' for kind, size in sizes.items())}")
    print(f"on {where['processor']}, {counted(int(where['cores']), 'core')}; milliseconds an image")
    print(timing_table(timings))
    for line in comparisons(timings):
        print(line)
    if busy(timings):
        print(BUSY)
    for profile in profiles:
        print(profile_text(profile))
    return 0


def timing_table(timings: list[Timing]) -> str:
    """The timings as aligned text."""
    rows = [
        [t.name, t.isa, str(t.threads), str(t.batch), f"{t.median:.3f}", f"{t.p10:.3f}", f"{t.p90:.3f}", str(t.calls)]
        for t in timings
    ]
    return table(rows, ("", "arithmetic", "threads", "batch", "median", "p10", "p90", "calls"))


def comparisons(timings: list[Timing]) -> list[str]:
    """How many times faster each native run is than PyTorch's at equal settings."""
    by_torch = {(t.threads, t.batch): t.median for t in timings if t.name == "PyTorch"}
    return [
        f"{t.isa}, {t.threads} thread{'s' * (t.threads > 1)}, batch {t.batch}: "
        f"{by_torch[t.threads, t.batch] / t.median:.1f} times as fast as PyTorch"
        for t in timings
        if t.name == "bhvit" and (t.threads, t.batch) in by_torch
    ]


def _isas(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        from .. import _native

        return list(_native.available_isas())
    if not names:
        raise UserError("--isa needs a name, auto or all")
    if "all" in names:
        raise UserError(f"--isa all stands alone, without other names: {text}")
    return names


def profile_text(profile: dict[str, Any]) -> str:
    """Write the profile of a model as a table, an op a line."""
    peaks = profile["peak_binary_macs_per_second"], profile["peak_float_macs_per_second"]
    whole, threads = profile["microseconds"], profile["threads"]
    rows = []
    for op in profile["ops"]:
        binary, full = op["binary_macs_per_second"], op["float_macs_per_second"]
        row = [op["name"], op["kind"], f"{op['microseconds']:.1f}", f"{op['share']:.1%}"]
        row += [count_text(binary) if binary else "", count_text(full) if full else ""]
        limit = binary / peaks[0] + full / peaks[1]
        rows.append([*row, f"{limit:.0%}" if limit else ""])
    rows.append(["outside the ops", "", f"{profile['outside']:.1f}", f"{profile['outside'] / whole:.1%}", "", "", ""])
    rows.append(["the whole call", "", f"{whole:.1f}", "100.0%", "", "", ""])
    heading = f"\n{profile['isa']}, {threads} thread{'s' * (threads > 1)}, batch 1, medians:"
    most = f"  limit: {count_text(peaks[0])} binary and {count_text(peaks[1])} float MAC/s, by loops on registers alone"
    if threads > 1:
        most += f", {threads} times those of one core"
    header = ("op", "kind", "µs", "share", "binary MAC/s", "float MAC/s", "of its limit")
    return "\n".join([heading, table(rows, header), most])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 3600 seconds")
    return value
