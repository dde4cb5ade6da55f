"""Errors the user can correct.

Whatever a user can get wrong (a path, an option, a damaged file, an impossible size) raises `UserError`. Its message
is one line that names the thing and how to fix it. The command line prints that line and exits with status 2; any
other exception is a bug in bhvit.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Iterable
from typing import Any

LONGEST = 5000
"""Characters of a message; the middle of a longer one is left out."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, changes of text direction, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""Return `text` with control and unprintable characters as escapes, such as \u001b."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(message: str) -> str:
    """Return `message` as one printable line of at most `LONGEST` characters."""
    line = printable(" ".join(message.split()))
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[:half]} … {line[-half:]}"


def shown(value: Any) -> str:
    """Return a short representation of a value for a message.

    Long values are cut in the middle; bytes are their number.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return counted(len(value), "byte")
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 200
    return brief.repr(value)


def counted(count: int, noun: str, several: str | None = None) -> str:
    """Return a count with its noun: 1 image, 2 images, 2 classes.

    `several` is the noun of other counts than 1, where that is not `noun` with an s.
    """
    usual = f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else several or usual}"


def listed(names: Iterable[object]) -> str:
    """Return names as a list in one line; a name that holds a comma or a quote stands in quotes, as in CSV."""
    return ", ".join(map(_quoted, map(str, names)))


def _quoted(name: str) -> str:
    plain = name and name == name.strip() and not {",", '"'} & set(name)
    return name if plain else '"' + name.replace('"', '""') + '"'


def report(line: str) -> None:
    """Print a line on standard error, marked as all lines of the command line are."""
    print(f"bhvit: {line}", file=sys.stderr)


class UserError(ValueError):
    """A bad argument, file or setting, as one line that says how to fix it.

    The message may quote names and values from files: it is cut to `LONGEST` characters, and control characters
    in it are escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


class FormatError(UserError):
    """A `.bhv` file that is truncated, damaged, of another version, or not a model."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency that is not installed."""


def require_extra(module: str, extra: str) -> MissingExtraError:
    """Return the error for a missing optional dependency, with the command that installs it."""
    return MissingExtraError(
        f"this needs {module}, which is not installed: install bhvit with the extra '{extra}', "
        f"for example pip install '.[{extra}]' in its checkout"
    )
