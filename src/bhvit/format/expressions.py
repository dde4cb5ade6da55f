"""Whole-number expressions of an op's attributes, such as `9 * channels // groups`.

Python evaluates them, and `native/format/generate.py` writes them as C++: the schema states each rule once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import CodeType

from ..bits import LANES


def evaluate(expression: str, attributes: Mapping[str, int]) -> int:
    """Compute an expression of attributes; a condition is 0 or 1."""
    return int(eval(_compiled(expression), {"__builtins__": {}, "tiles": tiles}, dict(attributes)))


def tiles(channels: int) -> int:
    """Count the tiles of 16 outputs that hold this many."""
    return -(-channels // LANES)


@functools.cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, f"<{expression}>", "eval")
