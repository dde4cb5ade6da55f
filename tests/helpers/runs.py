"""What two runs left, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

TIMES = ("seconds", "images_per_second")


def outcome(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], list[dict[str, Any]]]:
    """Weights, and the log without its times."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for entry in log:
        for key in TIMES:
            del entry[key]
        entry.pop("waited_for_data", None)  # newer than released runs
    weights = {name: safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("last", "best")}
    return weights, log


def assert_same(first: Path, second: Path) -> None:
    (weights, log), (other_weights, other_log) = outcome(first), outcome(second)
    assert log == other_log
    for name, tensors in weights.items():
        assert tensors.keys() == other_weights[name].keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other_weights[name][key]), f"{name}: {key}"
