"""Every path, link, make target and command that the documentation names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from helpers.site import DOCS, ROOT, WRITTEN, code_blocks, commands, script

GENERATED = script("generate").pages()
FOLDERS = ("src", "native", "tests", "benchmarks", "docs", "examples", "cmake")
SUFFIXES = ("py", "cc", "h", "md", "toml", "mjs", "c", "svg", "png", "ipynb")
MADE = {"demo/report.html", "build/grown", "build/findings"}
"""Paths that commands make."""


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", WRITTEN, ids=identify)
def test_paths_exist(page: Path) -> None:
    for code in re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    ):
        for word in code.split():
            top = word.split("/")[0]
            named = word.rstrip("/").rpartition(".")[2] in SUFFIXES and "/" in word
            if "*" in word or word in MADE or not (named or (top in FOLDERS and "/" in word)):
                continue
            places = (ROOT, ROOT / "src" / "bhvit", page.parent)
            assert any((place / word).exists() for place in places), f"{word} does not exist"


@pytest.mark.parametrize("page", WRITTEN, ids=identify)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = (page.parent / target.partition("#")[0]).resolve()
        site = str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else ""
        assert path.exists() or site in GENERATED, f"{target} leads nowhere"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in WRITTEN:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


@pytest.mark.parametrize("page", WRITTEN, ids=identify)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = [line for block in code_blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`(bhvit [a-z][^`\n]*)`", text)]:
        for words in re.findall(r"\bbhvit ([a-z]+ ?.*)", line.partition("   #")[0].partition(" && ")[0]):
            name, *rest = shlex.split(words)
            assert name in commands(), f"there is no command bhvit {name}"
            options = {option for action in commands()[name]._actions for option in action.option_strings}
            for word in rest:
                assert not word.startswith("--") or word.partition("=")[0] in options, f"bhvit {name} has no {word}"
