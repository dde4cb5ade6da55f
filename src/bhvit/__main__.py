"""The command line: `bhvit` and `python -m bhvit`.

Ctrl-C ends it with status 130, even while it is being imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit status."""
    try:
        from .cli.main import main as run

        return run(argv)
    except UserError as error:  # of the environment, found while modules are imported
        print(f"bhvit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbhvit: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
