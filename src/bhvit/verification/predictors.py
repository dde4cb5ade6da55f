"""Models as functions of prepared images, whatever file they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from .. import bundled
from ..calibration import Calibration
from ..data.metrics import Floats, NonFiniteLogitsError, Predict
from ..data.segmentation_metrics import Labeller, Labels
from ..errors import UserError
from ..format import file as bhv_file
from ..format.checkpoint import read_description
from ..image import Preprocess
from ..runtime import Session, label_maps
from ..spec.model import Task
from ..system import MAX_THREADS, allowed_cores

if TYPE_CHECKING:
    from ..models import BHViT


class OpenModel(NamedTuple):
    """A model as a function of prepared images, and what it says of itself."""

    predict: Predict
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    calibration: Calibration | None


def torch_predict(model: BHViT) -> Callable[[Floats], Floats]:
    """Return `model`, in evaluation mode, as a function of images to logits.

    Images are normalised, (B, C, H, W), logits (B, classes).
    """
    import torch

    def predict(images: Floats) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(torch.from_numpy(images)).numpy()
        return logits

    return predict


def open_pair(checkpoint: Path, packed: Path) -> tuple[BHViT, bhv_file.PackedModel]:
    """Open a checkpoint and the file packed from it.

    Raises UserError if they are of different architectures.
    """
    from ..models import load_checkpoint
    from ..packing.lowering import lowered

    model, file = load_checkpoint(checkpoint), bhv_file.read(packed)
    if lowered(model).spec != file.spec:
        raise UserError(f"{packed} was not packed from {checkpoint}: it holds a {file.spec.name} of other settings")
    return model, file


def open_model(path: str, threads: int | None = None, max_memory: int | None = None) -> OpenModel:
    """A checkpoint or packed file as a predictor, with its preprocessing, class names and calibration.

    `threads` None uses all cores; `max_memory` bounds a packed model, in bytes. Raises UserError if it is neither, a
    checkpoint without preprocessing, or a packed model that needs more memory.
    """
    path = str(bundled.find(path, ".bhv"))
    if path.endswith(".bhv"):
        model = bhv_file.read(path)
        session = Session(path, threads=threads or allowed_cores(), max_memory=max_memory)
        return OpenModel(session, model.preprocess, model.class_names, model.calibration)
    if not path.endswith(".safetensors"):
        raise UserError(f"{path} is neither a .safetensors checkpoint nor a .bhv file")
    checkpoint, preprocess = _open_checkpoint(path, threads)
    return OpenModel(torch_predict(checkpoint), preprocess, checkpoint.class_names, checkpoint.calibration)


def task_of(path: str) -> Task:
    """Return the task of a checkpoint or packed file, from its description.

    Raises UserError if it has none.
    """
    found = bundled.find(path, ".bhv")
    bundled.check_name(found, ".bhv")
    if found.suffix == ".bhv":
        return bhv_file.read(found).spec.task
    return read_description(found).spec.task


def labels_of(logits: Floats) -> Labels:
    """Logits of pixels (classes, H, W) -> their labels, the first of equal classes.

    Raises NonFiniteLogitsError for NaN and infinity, which would be taken for a class.
    """
    if not np.isfinite(logits).all():
        raise NonFiniteLogitsError("the model gives numbers that are not finite: its weights are damaged or diverged")
    return np.asarray(logits.argmax(axis=0).astype(np.uint8))


def torch_labeller(model: BHViT) -> Labeller:
    """Return a segmentation as a function of an image to its pixels' labels."""
    import torch

    preprocess = model.preprocess
    assert preprocess is not None

    def label(image: Image.Image) -> Labels:
        pixels = preprocess.decoded(image)
        with torch.inference_mode():
            logits = model(torch.from_numpy(preprocess.normalize(preprocess.resized(pixels, preprocess.size)[None])))
        return label_maps.resized(labels_of(logits[0].numpy()), pixels.shape[:2])

    return label


def open_labeller(
    path: str, threads: int | None = None, max_memory: int | None = None
) -> tuple[Labeller, tuple[str, ...] | None]:
    """Open a segmentation as a function of an image, and its class names.

    It is a checkpoint or a packed file. The arguments are those of `open_model`.
    """
    path = str(bundled.find(path, ".bhv"))
    if path.endswith(".bhv"):
        session = Session(path, threads=threads or allowed_cores(), max_memory=max_memory)
        return session.segment, session.class_names
    model, _ = _open_checkpoint(path, threads)
    return torch_labeller(model), model.class_names


def _open_checkpoint(path: str, threads: int | None) -> tuple[BHViT, Preprocess]:
    """Load a checkpoint that `threads` run, with its preprocessing. Raises UserError if it has none."""
    from ..models import load_checkpoint

    _set_threads(threads)
    model = load_checkpoint(path)
    if model.preprocess is None:
        raise UserError(f"{path} does not say how images are prepared for it: train it with `bhvit train`")
    return model, model.preprocess


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is None:
        return
    if threads > MAX_THREADS:
        raise UserError(f"threads must be at most {MAX_THREADS}, not {threads}")
    torch.set_num_threads(threads)
