"""The scripts of docs/ as modules; they need no MkDocs to be imported."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from bhvit.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(
    [*(ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md")), *DOCS.rglob("*.md")]
)
"""Pages that people write, as opposed to generated ones."""


def script(name: str) -> ModuleType:
    """Import docs/NAME.py."""
    if str(DOCS) not in sys.path:
        sys.path.insert(0, str(DOCS))
    return importlib.import_module(name)


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced code of one language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command of the command line."""
    (choices,) = [
        action.choices for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(choices)
