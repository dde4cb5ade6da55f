"""A teacher's outputs for every training image, computed once or read.

They describe the images without augmentation, so they suit runs whose augmentation keeps each image recognisable as a
whole. Kept outputs are float16 (N, classes) in a memory-mapped file: a set of any size needs no memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.dataset import Dataset
from ..data.metrics import decode
from ..errors import UserError, counted
from ..files import check_regular, new_part
from ..image import Preprocess
from .config import TrainConfig
from .context import RunContext
from .teacher import Teacher

_MOST_VIEWS = 64
"""Views of an image in a file of outputs."""
_HEADER = 1 << 16
"""Bytes of an array's header."""
_NOT_AN_ARCHIVE = (
    MemoryError,  # an array whose header claims more than there is
    *(OSError, ValueError, EOFError, TypeError, AttributeError),  # the last two of an array that is no archive
    *(RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),  # encrypted, damaged
)
CHUNK = 256
"""Images that the teacher sees at a time."""


class TeacherOutputs:
    """Logits of a teacher by the number of a training image."""

    def __init__(self, rows: npt.NDArray[np.floating[Any]]) -> None:
        """`rows` holds the logits of the training images in their order, (N, classes)."""
        self.rows = rows

    def __getitem__(self, images: Tensor) -> Tensor:
        """Numbers of images (B,) -> logits (B, classes), float32 on the CPU."""
        return torch.from_numpy(self.rows[images.numpy()].astype(np.float32))


def teacher_outputs(
    teacher: Teacher,
    config: TrainConfig,
    dataset: Dataset,
    preprocess: Preprocess,
    context: RunContext,
) -> TeacherOutputs:
    """Open the teacher's outputs in the folder `config.teacher_outputs`.

    The first process makes them if they are absent.

    Raises UserError if they cannot be written.
    """
    assert config.teacher_outputs is not None
    path = Path(config.teacher_outputs) / f"{_digest(config, teacher, dataset, preprocess)}.npy"
    if context.processes.first and not path.exists():
        part = new_part(path)  # another run may be making the same outputs
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(part, teacher.to(context.device), dataset, preprocess, context)
            part.replace(path)
        except OSError as error:
            raise UserError(f"cannot write the teacher's outputs to {path.parent}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
    context.processes.wait()
    check_regular(path)
    try:
        rows = np.load(path, mmap_mode="r")
        if rows.dtype != np.float16 or rows.ndim != 2 or len(rows) != len(dataset):
            raise ValueError("other outputs than it should")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and the outputs are computed again") from None
    return TeacherOutputs(rows)


def read_outputs(path: str, dataset: Dataset) -> TeacherOutputs:
    """Read the outputs of any network for the images of `dataset`.

    They are in a file that `numpy.savez` wrote.

    The file holds `logits`, (N, classes) or (N, views, classes), whose views (an image and its mirror image, for
    example) are averaged, and `labels` (N,): one row for each image of `dataset`, in its order. Raises UserError if it
    cannot be read or is about other images.
    """
    check_regular(Path(path))
    most = _MOST_VIEWS * max(1, len(dataset)) * max(1, len(dataset.class_names)) * np.dtype(np.float64).itemsize
    try:
        with np.load(path) as file:  # never unpickles
            for entry in file.zip.infolist():
                if entry.file_size > most + _HEADER:
                    raise UserError(
                        f"the teacher's outputs {path} unpack to {entry.file_size} bytes, more than {len(dataset)} "
                        "training images need"
                    )
            logits, labels = file["logits"], file["labels"]
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"the teacher's outputs {path} lack an array {error}: write them with numpy.savez") from None
    except _NOT_AN_ARCHIVE as error:
        reason = getattr(error, "strerror", None) or "not a file of numpy.savez"
        raise UserError(f"cannot read the teacher's outputs {path}: {reason}") from None
    if logits.dtype.kind != "f" or logits.ndim not in (2, 3) or labels.shape != logits.shape[:1] or not logits.size:
        raise UserError(
            f"the teacher's outputs {path} need floats logits (N, classes) or (N, views, classes) and labels (N,), "
            f"not {logits.dtype} {logits.shape} and {labels.shape}"
        )
    if logits.shape[-1] != len(dataset.class_names):
        raise UserError(
            f"the teacher's outputs {path} have {counted(logits.shape[-1], 'class')}, the data has "
            f"{len(dataset.class_names)}"
        )
    if not np.array_equal(labels, dataset.labels):
        raise UserError(
            f"the teacher's outputs {path} are about other images: {len(labels)}, with other labels than the "
            f"{len(dataset)} training images"
        )
    rows = logits.astype(np.float32)
    if rows.ndim == 3:
        rows = rows.mean(axis=1)
    if not np.isfinite(rows).all():
        raise UserError(f"the teacher's outputs {path} are not finite")
    return TeacherOutputs(rows)


def _make(path: Path, teacher: Teacher, dataset: Dataset, preprocess: Preprocess, context: RunContext) -> None:
    """Write the logits of all images, float16 (N, classes).

    Raises UserError if one is not finite.
    """
    create: Any = np.lib.format.open_memmap  # which has no types in the NumPy of Python 3.10
    rows: Any = None
    for start in tqdm(
        range(0, len(dataset), CHUNK), "teacher", unit="batch", disable=context.quiet, file=sys.stderr, leave=False
    ):
        pixels = decode(dataset, preprocess, range(start, min(start + CHUNK, len(dataset))))
        logits = teacher(torch.from_numpy(preprocess.normalize(pixels)).to(context.device)).float().cpu().numpy()
        if rows is None:
            rows = create(path, "w+", np.float16, (len(dataset), logits.shape[1]))
            _allocate(path)
        with np.errstate(over="ignore"):  # found below
            rows[start : start + len(logits)] = logits
    if not np.isfinite(rows).all():
        raise UserError("the teacher's outputs are not finite, or too large for float16")
    rows.flush()


def _allocate(path: Path) -> None:
    """Reserve disk space for the whole length of a file.

    Writing to a mapping on a full disk would end the process.

    Raises OSError if there is too little.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _digest(config: TrainConfig, teacher: Teacher, dataset: Dataset, preprocess: Preprocess) -> str:
    """Digest all that outputs depend on: teacher, images and their preprocessing."""
    found = hashlib.sha256()
    for tensor in teacher.state_dict().values():
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    names: Sequence[Any] = (config.teacher, config.data, len(dataset), preprocess.to_json(), dataset.class_names)
    found.update(json.dumps(names).encode())
    found.update(dataset.digest().encode() + dataset.indices.tobytes())
    return found.hexdigest()[:32]
