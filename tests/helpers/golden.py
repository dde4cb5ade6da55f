"""Recorded outputs of the published code, with weights and inputs drawn from names (tests/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golden import synthetic

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = {
    "tiny_binary": (1, 2),
    "tiny_somefp": (2, 2),
    "small_binary": (3, 1),
    "tiny_gsb": (4, 1),
    "binaryvit_binary": (5, 1),
}
"""Seed and batch of each case."""


def expected(case: str) -> Mapping[str, npt.NDArray[Any]]:
    """Return what was recorded: logits, loss, gradients' norms and sums, activations after each block."""
    recorded: Mapping[str, npt.NDArray[Any]] = np.load(GOLDEN / f"{case}.npz")
    return recorded


def weights(case: str) -> dict[str, npt.NDArray[Any]]:
    """Return the state dict of a case, under its published names."""
    shapes = json.loads((GOLDEN / "shapes.json").read_text(encoding="utf-8"))[case]
    return synthetic.state_dict(shapes, CASES[case][0])


def images(case: str) -> npt.NDArray[np.float64]:
    """Return the images of a case, (batch, 3, 224, 224)."""
    seed, batch = CASES[case]
    return synthetic.images(batch, 224, seed)
