"""The images of a run: training and validation, and what tells them from others."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import bundled
from ..data.dataset import Dataset, open_dataset
from ..data.folders import FolderStore
from ..data.masks import open_masked
from ..data.splits import split_of
from ..errors import UserError
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
    """The classes, each split's number of images and their digest, and digests of the files that teach: a resumed run
    must find the same."""


def open_run_data(config: TrainConfig, context: RunContext) -> RunData:
    """Find and check the images. Raises UserError."""
    processes, quiet = context.processes, context.quiet
    with _first_before_others(processes):  # it downloads what the others then find
        used = "train+validation" if config.include_validation else "train"
        train = _open(config, used, None, quiet)
        validation = _open(config, "validation", train.class_names, quiet)
    _check_out(config, train)
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
            "teachers": _teacher_files(config),
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


def _check_out(config: TrainConfig, train: Dataset) -> None:
    """Raises UserError if the run's folder would be a class: it lies among the class folders of the images."""
    if not isinstance(train.store, FolderStore) or config.task == "segment":
        return
    root, out = (Path(os.path.realpath(path)) for path in (config.data, config.out))
    if out.is_relative_to(root):
        top = out.relative_to(root).parts[:1]
        if not train.splits or not top or split_of(top[0]):
            raise UserError(
                f"--out {config.out} lies among the class folders of {config.data} and would be a class of the next "
                "run: name a folder elsewhere"
            )


def _teacher_files(config: TrainConfig) -> dict[str, str]:
    """Digests of the files that the teachers of a run are read from, by name; those of timm's hub are not known."""
    digests = {}
    for phase in config.phase_configs():
        for name in (phase.teacher, phase.teacher_file):
            if name is not None and (path := bundled.find(name, ".safetensors")).is_file():
                found = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        found.update(block)
                digests[name] = found.hexdigest()
    return digests


@contextmanager
def _first_before_others(processes: Processes) -> Iterator[None]:
    if not processes.first:
        processes.wait()
    yield
    if processes.first:
        processes.wait()
