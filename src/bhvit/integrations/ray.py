"""Packed models on a Ray cluster: `Predictor`, and the engine of `--engine ray`.

A worker that dies is started again by Ray, and what it had not answered is computed again; every picture is answered
once.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import bundled
from ..data.inputs import Inputs, Picture
from ..errors import UserError, require_extra
from ..runtime import Session
from ..runtime.session import Answer, Streamed

COLUMNS = ("image", "bytes", "path")
"""Columns that hold pictures, in the order in which they are looked for: arrays or {bytes, path}, file bytes, paths."""
_TOGETHER = 8
"""Pictures of a task: sending one costs about a millisecond."""
_AHEAD = 3
"""Tasks for each worker that wait or run."""


class Predictor:
    """Classify the pictures of Ray Data batches.

    It is for `Dataset.map_batches`, which makes one for each worker.

        ray.data.read_images("photos").map_batches(Predictor, fn_constructor_args=["model.bhv"], concurrency=2)

    A batch has a column `image` (uint8 (H, W, 3), or {bytes, path} as Hugging Face has it), `bytes` (image files, as
    `read_binary_files` gives) or `path`. Added columns: `class`, `probability`, `classes`, `probabilities` (the `top`
    likeliest) and `error`, which is empty but for pictures that cannot be read.
    """

    def __init__(self, model: str | Path | bytes, *, top: int = 5, column: str | None = None, threads: int = 1) -> None:
        """Open the model: a file that every worker sees, its bytes, or a bundled name.

        `column` holds the pictures.
        """
        self._session = Session(model, threads=threads)
        if self._session.task != "classify":
            raise UserError(f"{self._session.spec.name} labels pixels, and a Predictor classifies")
        self._top, self._column = top, column

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        column = self._column or next((name for name in COLUMNS if name in batch), None)
        if column is None or column not in batch:
            wanted = self._column or ", ".join(COLUMNS)
            raise UserError(f"the batch has no column {wanted} with pictures; it has {', '.join(map(str, batch))}")
        found = [self._answer(value) for value in batch[column]]
        names = [[name for name, _ in answer] for answer, _ in found]
        values = [[value for _, value in answer] for answer, _ in found]
        return {
            **batch,
            "class": np.array([row[0] if row else "" for row in names], np.str_),
            "probability": np.array([row[0] if row else float("nan") for row in values], np.float64),
            "classes": names,
            "probabilities": values,
            "error": np.array([error for _, error in found], np.str_),
        }

    def _answer(self, value: Any) -> tuple[Answer, str]:
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        try:
            return self._session.classify(str(value) if isinstance(value, np.str_) else value, self._top), ""
        except UserError as error:
            return [], str(error)


class Engine:
    """Workers of a cluster that classify pictures, in order."""

    def __init__(
        self,
        model: str | Path,
        *,
        top: int,
        workers: int | None,
        threads: int = 1,
        address: str | None = None,
        isa: str = "auto",
        max_memory: int | None = None,
    ) -> None:
        """Connect to the cluster at `address`, or start one on this machine. Raises UserError.

        `workers` defaults to the cluster's cores by `threads`; `threads`, `isa` and `max_memory` are those of each
        worker's `Session`.
        """
        ray = _ray()
        try:
            data = bundled.find(model, ".bhv").read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {model}: {error.strerror}{bundled.hint(model)}") from None
        self._joined = address is None and ray.is_initialized()  # by the program that calls this
        if not self._joined:
            dashboard = False if address is None else None
            try:
                ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=dashboard)
            except Exception as error:  # Ray raises nothing more special when a cluster does not start
                raise UserError(f"cannot use the Ray cluster {address or 'of this machine'}: {error}") from None
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        worker = ray.remote(num_cpus=threads, max_restarts=-1, max_task_retries=-1)(_Worker)
        # Once a node. Kept, since a worker that is started again needs it again, and Ray forgets what nobody refers to.
        self._model = ray.put(data)
        self.workers = [worker.remote(self._model, top, threads, isa, max_memory) for _ in range(count)]

    def stream(self, inputs: Inputs) -> Iterator[Streamed]:
        """Classify as `Session.stream` does, on the cluster.

        The workers read the files: their paths must mean the same on every machine.
        """
        ray = _ray()
        pictures = iter(inputs)
        waiting: deque[tuple[Sequence[Picture], Any]] = deque()
        turn = 0
        while True:
            while len(waiting) < _AHEAD * len(self.workers) and (several := list(islice(pictures, _TOGETHER))):
                sent = [picture.portable() for picture in several]
                waiting.append((sent, self.workers[turn % len(self.workers)].classify.remote(sent)))
                turn += 1
            if not waiting:
                return
            first, reference = waiting.popleft()
            for picture, (answer, error) in zip(first, ray.get(reference), strict=True):
                failed = None if error is None else UserError(error)
                yield Streamed(picture.name, answer, failed, picture.seconds, picture)

    def close(self) -> None:
        """Stop the workers, and leave the cluster."""
        ray = _ray()
        for worker in self.workers:
            ray.kill(worker)
        if not self._joined:
            ray.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """A session in a process of the cluster."""

    def __init__(self, model: bytes, top: int, threads: int, isa: str, max_memory: int | None) -> None:
        self._session, self._top = Session(model, threads=threads, isa=isa, max_memory=max_memory), top

    def classify(self, pictures: Iterable[Picture]) -> list[tuple[Answer | None, str | None]]:
        outcomes = self._session.stream(_Given(pictures), self._top, workers=1)
        return [(outcome.classes, None if outcome.error is None else str(outcome.error)) for outcome in outcomes]

    def process(self) -> int:
        """The number of this worker's process."""
        return os.getpid()


class _Given(Inputs):
    """Pictures that are there already."""

    def __init__(self, pictures: Iterable[Picture]) -> None:
        super().__init__([])
        self._given = pictures

    def __iter__(self) -> Iterator[Picture]:
        return iter(self._given)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise require_extra("ray", "ray") from None
    return ray
