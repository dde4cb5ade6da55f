"""Quantities and models as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import counted, listed
from .spec.model import ModelSpec


def size_text(count: int) -> str:
    """Bytes for people, in decimal units: 812 B, 34.5 kB, 4.21 MB."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1e6:.2f} MB"


def count_text(count: float) -> str:
    """Write a count for people: 512, 10.10 M, 4.06 G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.2f} {unit}"
    return f"{count:.0f}"


def joules_text(joules: float) -> str:
    """An energy for people: 69.7 µJ, 20.5 mJ."""
    return f"{1e6 * joules:.3g} µJ" if joules < 1e-3 else f"{1e3 * joules:.3g} mJ"


def describe(spec: ModelSpec) -> str:
    """A model in a few words: bhvit_nano, 32x32x3, 10 classes; or: bhvit_nano, segmentation, 192x256x3, 2 classes."""
    height, width = spec.img_size
    task = "" if spec.task == "classify" else ", segmentation"
    return f"{spec.name}{task}, {height}x{width}x{spec.in_chans}, {counted(spec.num_classes, 'class')}"


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first of `names`, and how many more there are."""
    shown = listed(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def without_middle(text: str) -> str:
    """Return a path for a message; a far too long one loses its middle."""
    return text if len(text) <= 400 else f"{text[:200]}…{text[-200:]}"
