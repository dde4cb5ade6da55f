"""The one exception for mistakes that the caller can mend.

Everything a user can get wrong (a path, an option, a damaged file, a size that no model can
take) is raised as `UserError`, whose message is one line that names the thing and the mend.
The command line prints that line and exits with status 2; any other exception is a fault of ours.
"""

from __future__ import annotations


class UserError(ValueError):
    """A bad argument, file or setting; the message is one line naming the thing and the mend."""


class FormatError(UserError):
    """A `.bhv` file that is cut short, damaged, of another version, or not a model at all."""


class MissingExtraError(UserError, ImportError):
    """A part of bhvit that needs an optional dependency which is not installed."""


def require_extra(module: str, extra: str) -> MissingExtraError:
    """The error for an absent optional dependency, with what installs it from wherever bhvit came."""
    return MissingExtraError(
        f"this needs {module}, which is not installed: install bhvit with the extra '{extra}', "
        f"for example pip install '.[{extra}]' in its checkout"
    )
