"""The images of a run: training and validation, and what tells them from others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.dataset import Dataset, open_dataset
from ..data.masks import open_masked
from ..image import Preprocess
from ..models import model_spec
from .config import TrainConfig
from .context import RunContext
from .distributed import Processes
from .loader import cached


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunData:
    """The images of a run, the same in all its phases."""

    train: Dataset
    validation: Dataset
    """What this process evaluates of them."""
    labels: npt.NDArray[np.int64]
    """Of all validation images, (N,)."""
    preprocess: Preprocess
    pixels: npt.NDArray[np.uint8] | None
    """The validation images decoded, (n, H, W, C), where they fit in memory."""
    identity: Mapping[str, Any]
    """The classes, and each split's number of images and their digest: a resumed run must find the same."""


def open_run_data(config: TrainConfig, context: RunContext) -> RunData:
    """Find and check the images. Raises UserError."""
    processes, quiet = context.processes, context.quiet
    with _first_before_others(processes):  # it downloads what the others then find
        used = "train+validation" if config.include_validation else "train"
        train = _open(config, used, None, quiet)
        validation = _open(config, "validation", train.class_names, quiet)
    # Every n-th image each: every image counts once, whatever the number of processes.
    own = validation.subset(range(processes.rank, len(validation), processes.size))
    size = model_spec(config.model, num_classes=2, **config.model_settings()).img_size
    preprocess = Preprocess.usual(
        size, config.channels, crop=config.crop, interpolation=config.interpolation, draft=config.draft
    )
    pixels = cached(own, preprocess, config.cache_mb) if len(own) else None
    return RunData(
        train=train,
        validation=own,
        labels=validation.labels,
        preprocess=preprocess,
        pixels=None if pixels is None else pixels.numpy(),
        identity={
            "classes": list(train.class_names),
            **{
                name: {"images": len(split), "digest": split.digest()}
                for name, split in (("train", train), ("validation", validation))
            },
        },
    )


def _open(settings: TrainConfig, split: str, class_names: tuple[str, ...] | None, quiet: bool) -> Dataset:
    if settings.task == "segment":
        return open_masked(
            settings.data,
            split,
            class_names=class_names,
            classes_file=settings.classes,
            ignore=settings.ignore,
            foreground=settings.foreground,
            test_fraction=settings.test_fraction,
            warn=None if not quiet and class_names is None else lambda line: None,
        )
    return open_dataset(
        settings.data,
        split,
        class_names=class_names,
        classes_file=settings.classes,
        strict=settings.strict,
        test_fraction=settings.test_fraction,
        warn=None if not quiet else lambda line: None,
    )


@contextmanager
def _first_before_others(processes: Processes) -> Iterator[None]:
    if not processes.first:
        processes.wait()
    yield
    if processes.first:
        processes.wait()
