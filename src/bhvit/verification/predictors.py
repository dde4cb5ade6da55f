"""Models as functions of prepared images, whatever file they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from .. import bundled
from ..calibration import Calibration
from ..data.metrics import Floats, Predict
from ..data.segmentation_metrics import Labeller, Labels
from ..errors import UserError
from ..format import file as bhv_file
from ..format.checkpoint import CheckpointDescription, read_metadata
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
    return _open_checkpoint(path, threads)


def task_of(path: str) -> Task:
    """Return the task of a checkpoint or packed file, from its description.

    Raises UserError if it has none.
    """
    found = bundled.find(path, ".bhv")
    if found.suffix == ".bhv":
        return bhv_file.read(found).spec.task
    return CheckpointDescription.from_metadata(read_metadata(found), found).spec.task


def torch_labeller(model: BHViT) -> Labeller:
    """Return a segmentation as a function of an image to its pixels' labels."""
    import torch

    preprocess = model.preprocess
    assert preprocess is not None

    def label(image: Image.Image) -> Labels:
        pixels = preprocess.decoded(image)
        with torch.inference_mode():
            logits = model(torch.from_numpy(preprocess.normalize(preprocess.resized(pixels, preprocess.size)[None])))
        found = logits[0].argmax(dim=0).to(torch.uint8).numpy()
        return label_maps.resized(found, pixels.shape[:2])

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
    from ..models import load_checkpoint

    _set_threads(threads)
    model = load_checkpoint(path)
    if model.preprocess is None:
        raise UserError(f"{path} does not say how images are prepared for it: train it with `bhvit train`")
    return torch_labeller(model), model.class_names


def _open_checkpoint(path: str, threads: int | None) -> OpenModel:
    from ..models import load_checkpoint

    _set_threads(threads)
    model = load_checkpoint(path)
    if model.preprocess is None:
        raise UserError(f"{path} does not say how images are prepared for it: train it with `bhvit train`")
    return OpenModel(torch_predict(model), model.preprocess, model.class_names, model.calibration)


def _set_threads(threads: int | None) -> None:
    import torch

    if threads is None:
        return
    if threads > MAX_THREADS:
        raise UserError(f"threads must be at most {MAX_THREADS}, not {threads}")
    torch.set_num_threads(threads)
