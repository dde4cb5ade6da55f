"""What is timed: a packed file on each instruction set, and its checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.metrics import Floats
from ..format.file import PackedModel
from ..runtime import Session
from .turns import Run


def noise(file: PackedModel, batch: int) -> Floats:
    """Prepared images of noise, float32 (batch, C, H, W), always the same."""
    preprocess = file.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *preprocess.size, preprocess.channels), dtype=np.uint8)
    return preprocess.normalize(pixels)


def native_runs(
    path: Path,
    file: PackedModel,
    *,
    isas: list[str],
    threads: list[int],
    batches: list[int],
    max_memory: int | None = None,
) -> list[Run]:
    """Return a run of the packed file for every combination.

    Each has a session of at most `max_memory` bytes. Raises UserError for an unknown instruction set and a file that
    needs more memory.
    """
    runs = []
    for isa in isas:
        for count in threads:
            session = Session(path, threads=count, isa=isa, max_memory=max_memory)
            runs += [
                Run(
                    name="bhvit",
                    isa=session.isa,
                    threads=count,
                    batch=batch,
                    call=_bind(labeller(session), noise(file, batch)),
                )
                for batch in batches
            ]
    return runs


def labeller(session: Session) -> Callable[[Floats], Any]:
    """What is timed of a session: logits of classes, or labels of pixels."""
    return session.program.segment if session.task == "segment" else session


def torch_runs(checkpoint: Path, packed: Path, *, threads: list[int], batches: list[int]) -> list[Run]:
    """A run of the checkpoint in PyTorch for every combination, on the images of `native_runs`."""
    import torch

    from ..verification.predictors import open_pair, torch_predict

    model, file = open_pair(checkpoint, packed)
    logits = torch_predict(model)

    def predict(images: Floats) -> Any:
        return logits(images).argmax(axis=1) if file.spec.task == "segment" else logits(images)

    before = torch.get_num_threads()
    return [
        Run(
            name="PyTorch",
            isa="float32",
            threads=count,
            batch=batch,
            call=_bind(predict, noise(file, batch)),
            prepare=lambda count=count: torch.set_num_threads(count),  # type: ignore[misc]
            restore=lambda: torch.set_num_threads(before),
        )
        for count in threads
        for batch in batches
    ]


def _bind(predict: Any, images: Floats) -> Any:
    return lambda: predict(images)
