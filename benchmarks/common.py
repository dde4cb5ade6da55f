"""Shared by all benchmarks: writing results with their command and machine."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bhvit.system import environment

ROOT = Path(__file__).resolve().parents[1]


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers come formatted."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def add_page(parser: argparse.ArgumentParser, page: Path) -> None:
    """The option for another page than `page`, for runs on other machines."""
    parser.add_argument(
        "--page", type=Path, default=page, help=f"page to write (default {page.name}, next to the script)"
    )


def command() -> str:
    """The command that runs this process, to be given at the checkout's top."""
    module = Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("")
    return shlex.join(["python", "-m", ".".join(module.parts), *sys.argv[1:]])


def write_results(path: Path, title: str, text: str) -> None:
    """Write a result page: title, command, date, machine, then `text` (Markdown)."""
    machine = "; ".join(f"{key} {value}" for key, value in environment().items())
    page = f"# {title}\n\nCommand: `{command()}`\n\nDate: {datetime.date.today()}. Machine: {machine}.\n\n{text}\n"
    path.write_text(page, encoding="utf-8")
    print(f"\n{page}\nwritten to {path}")
