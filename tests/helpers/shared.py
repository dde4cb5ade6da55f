"""Where measured material lies that is too large, or not ours, to keep in the project."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(*parts: str) -> Path:
    """A path in the folder `shared` next to the checkout; the test is skipped, saying so, if it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} in a folder 'shared' next to the checkout")
    return path
