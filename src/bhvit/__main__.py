"""`bhvit` and `python -m bhvit`: the command line; Ctrl-C ends it with status 130 even while it is imported."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process and return its exit status."""
    try:
        from .cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("\nbhvit: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
