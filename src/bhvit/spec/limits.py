"""Largest sizes of a model, shared by specs and packed files."""

from __future__ import annotations

from collections.abc import Mapping

# Largest value of each attribute. They bound every size and index of the engine: the widest
# accumulator holds 9 * 8192 < 2^31, the largest grid 2048 * 2048 tokens.
LIMITS: Mapping[str, int] = {
    "height": 2048,
    "width": 2048,
    "in_chans": 64,
    "patch": 64,
    "kernel": 64,
    "channels": 8192,
    "out_channels": 8192,
    "hidden": 65536,
    "groups": 64,
    "heads": 256,
    "window_h": 64,
    "window_w": 64,
    "key_pool": 64,
    "classes": 1 << 20,
    "scale": 64,
}
MAX_OPS = 1024
MAX_KEYS = 4096
"""Keys that a query of attention can have."""
