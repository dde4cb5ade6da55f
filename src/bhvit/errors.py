"""Errors the user can correct.

Whatever a user can get wrong (a path, an option, a damaged file, an impossible size) raises `UserError`. Its message
is one line that names the thing and how to fix it. The command line prints that line and exits with status 2; any
other exception is a bug in bhvit.
"""

from __future__ import annotations


class UserError(ValueError):
    """A bad argument, file or setting; the message is one line that names it and how to fix it."""


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
