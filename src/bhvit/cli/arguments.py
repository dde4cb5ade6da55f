"""Parse the command line; errors are `UserError`s that point to the right --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError
from ..spec.meant import meant, renamed
from ..spec.values import nearest

_PLAINER = {
    "invalid int value:": "not a whole number:",
    "invalid float value:": "not a number:",
    "ignored explicit argument": "takes no value, but has",
}
"""argparse's words, which name Python's types, in ours."""
_MEANT = {
    theirs: ours
    for ours, names in {
        "classify": "predict infer inference detect label",
        "eval": "test evaluate val validate score",
        "train": "fit finetune fine-tune",
        "pack": "convert compile quantize quantise binarize binarise compress",
        "bench": "benchmark profile speed time",
        "verify": "check compare",
        "info": "show summary describe",
        "import": "load",
    }.items()
    for theirs in names.split()
}
"""Names of commands in other tools, and ours for the same job."""
_OPTIONS = {
    theirs: ours
    for ours, names in {
        "--model": "weights checkpoint ckpt network m",
        "--out": "o output-file save dest save-to",
        "--top": "k topk top-k",
        "--data": "source images d",
        "--limit": "n max-images num-images",
    }.items()
    for theirs in names.split()
}
"""Names of options in other tools, and ours for the same, where a command has it."""
_DEVICES = ("device", "gpu", "gpus", "cuda", "cpu")


class Parser(argparse.ArgumentParser):
    """The parser of one command, or of `bhvit` with all in `commands`.

    Options are not abbreviated: what a part of a name means would change with the next option that begins so.
    """

    commands: Mapping[str, Parser]

    def __init__(self, **settings: Any) -> None:
        self._options: list[str] = []  # argparse's own --help is added on the next line
        super().__init__(**settings, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self._options += action.option_strings
        return action

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse `words`, a command and its arguments, or --help or --version, which exit. Raises UserError."""
        first, *rest = words
        if first.startswith("-"):
            self._check_options([first])
            return self.parse_args(words)
        if first == "version":
            return self.parse_args(["--version"])
        if first == "help":
            if not rest:
                return self.parse_args(["--help"])
            first, rest = rest[0], ["--help"]
        if first not in self.commands and _MEANT.get(first) in self.commands:
            raise UserError(f"there is no command {first!r}; `bhvit {_MEANT[first]}` does that {self._help()}")
        if first not in self.commands:
            raise UserError(f"there is no command {first!r}{nearest(first, self.commands)} {self._help()}")
        return self.commands[first]._parse_own(rest)

    def _parse_own(self, words: Sequence[str]) -> argparse.Namespace:
        self._check_options(words)
        self._check_not_empty(words)
        args, left = self.parse_known_args(words)
        if left:
            hint = f"; did you mean --data {left[0]}?" if getattr(args, "data", "") is None else ""
            self.error(f"cannot place {' '.join(left)}: too many arguments, or options stand between them{hint}")
        return args

    def _check_options(self, words: Sequence[str]) -> None:
        # Before argparse does: it would rather complain of a required option that is missing because it is misspelt.
        words = words[: words.index("--")] if "--" in words else words
        if "-h" in words or "--help" in words:
            return
        for name in (word.partition("=")[0] for word in words):
            if _is_option(name) and name not in self._options:
                if Path(name).exists():
                    raise UserError(f"{name} would be an option; write ./{name} for the file {self._help()}")
                hint = self._meant(name) or nearest(name, self._options, "-")
                raise UserError(f"`{self.prog}` has no option {name}{hint} {self._help()}")

    def _meant(self, name: str) -> str | None:
        """Suggest the option that has this name in other tools; the text follows "has no option …" in a message."""
        if "--set" in self._options:
            return meant(name, self._spell)
        bare = name.lstrip("-").lower()
        ours = _OPTIONS.get(bare) or f"--{(renamed(name) or bare).replace('_', '-')}"
        if ours in self._options:
            return f"; did you mean {ours}?"
        if bare in _DEVICES and "--threads" in self._options:
            return "; packed models run on the CPU (--threads)"
        return None

    def _check_not_empty(self, words: Sequence[str]) -> None:
        # As a path, an empty word would be the current folder.
        for before, word in zip(["", *words], words):
            name, equals, value = word.partition("=")
            if not word.strip():
                after = f" after {before}" if _is_option(before) else ""
                raise UserError(f"an argument{after} is empty: is a variable of the shell not set? {self._help()}")
            if equals and name in self._options and not value.strip():
                raise UserError(f"{name}= has no value: is a variable of the shell not set? {self._help()}")

    def _spell(self, setting: str) -> str:
        """How a command line gives a setting: as an option, if there is one, or with --set."""
        option = f"--{setting.replace('_', '-')}"
        return option if option in self._options else f"--set {setting}=…"

    def error(self, message: str) -> NoReturn:
        for theirs, ours in _PLAINER.items():
            message = message.replace(theirs, ours)
        if message.endswith("required: --data"):
            message += ", which names the images (--data photos)"
        raise UserError(f"{message} {self._help()}")

    def _print_message(self, message: str, file: Any = None) -> None:
        # Versions of argparse hide an error of writing, so that --help would end well without a reader.
        (file or sys.stderr).write(message)

    def _help(self) -> str:
        return f"(`{self.prog} --help` explains more)"


def _is_option(name: str) -> bool:
    """Whether a word is meant as an option's name: not a lone dash, a negative number or a text with spaces."""
    return name.startswith("-") and name != "-" and name[1] not in ".0123456789" and " " not in name
