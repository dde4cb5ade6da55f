"""`bhvit`: the command line. Each command is a module of this folder with `add_parser(subparsers)`.

Exit status: 0 success; 1 a check failed (verify, demo); 2 a bad argument or file, with one line on standard
error; 130 interrupted; 143 terminated. Without arguments the help is printed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, one_line, require_extra
from .arguments import Parser
from .launch import is_child, report_failure
from .terminal import Terminated, ended_by_sigterm, safe_output

_SAME = tuple(
    "demo train eval pack calibrate classify segment explain embed serve web verify export info bench report".split()
)
COMMANDS = {name: name for name in _SAME} | {"import": "import_weights"}
"""Commands and their modules in this folder; `import` cannot name a module."""
_EXTRAS = dict.fromkeys(("torch", "timm", "torchvision", "sklearn", "tqdm"), "train") | {
    "pyarrow": "parquet",
    "av": "video",
    "ray": "ray",
    "onnx": "onnx",
    "onnxruntime": "onnx",
}
"""Optional packages, and the extra of ours that installs each."""

_DESCRIPTION = """\
Train a binary vision transformer on your own images, pack it into a file of a few megabytes whose
weights are single bits, and run that file on any CPU."""
_EXAMPLE = """\
first steps:
  bhvit demo                                            the whole way on handwritten digits, minutes
  bhvit train --data photos --out runs/photos           photos/cat/*.jpg, photos/dog/*.jpg, …
  bhvit pack runs/photos/best.safetensors model.bhv     weights become bits
  bhvit classify model.bhv cat.jpg                      needs neither PyTorch nor a GPU

`bhvit COMMAND --help` explains each command and shows an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit status."""
    with safe_output():
        try:
            with ended_by_sigterm():
                return _flush(_main(argv))
        except Terminated:
            print("\nbhvit: terminated", file=sys.stderr)
            return 143


def _main(argv: Sequence[str] | None) -> int:
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        args = build_parser().parse(words or ["--help"])
        args.words = words
        status: int = args.run(args)
        return status
    except SystemExit as error:  # argparse: --help and --version
        return error.code if isinstance(error.code, int) else 2
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        return _fail(str(require_extra(package, _EXTRAS[package])))
    except BrokenPipeError:  # the reader (head, less) has gone: nobody is left to tell
        return 141
    except Terminated:
        raise
    except KeyboardInterrupt:
        print("\nbhvit: interrupted", file=sys.stderr)
        return 130
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        return _fail(f"cannot use {error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(" ".join(filter(None, (error.filename and f"{error.filename}:", error.strerror))))
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return _fail("no more threads can be started: the limit of this user or container is reached (ulimit -u)")
    except MemoryError as error:
        return _fail(f"not enough memory{f': {error}' if str(error) else ''}; smaller batches or images need less")


def _flush(status: int) -> int:
    """Flush standard output and return the exit status, which is another one if that fails."""
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = status or 141
    except OSError as error:
        status = _fail(f"cannot write standard output: {error.strerror}")
    # What is still buffered would fail again, with a message of the interpreter's, when the process ends.
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    return status


OTHERS_WAIT = 10.0
"""Seconds until a process that is not the first of several says why it fails."""


def build_parser() -> Parser:
    """Return the parser of all commands; each sets `run`, a function of the parsed arguments."""
    parser = Parser(prog="bhvit", description=_DESCRIPTION, epilog=_EXAMPLE)
    parser.add_argument("--version", action=_Version)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND ...", required=True)
    for module in COMMANDS.values():
        importlib.import_module(f".{module}", __package__).add_parser(subparsers)
    parser.commands = subparsers.choices
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="show the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .. import __version__

        print(f"bhvit {__version__}")
        parser.exit()


def _fail(message: str) -> int:
    # Of several processes that stumble over the same thing one speaks: what started them ends the others as they wait.
    if os.environ.get("RANK", "0") != "0" and ("TORCHELASTIC_RUN_ID" in os.environ or is_child()):
        time.sleep(OTHERS_WAIT)
    print(f"bhvit: {one_line(message)}", file=sys.stderr)
    report_failure(one_line(message))
    return 2


if __name__ == "__main__":
    sys.exit(main())
