"""The model to learn from: one of our checkpoints, or any classifier that timm knows."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from torch import Tensor, nn

from .. import bundled
from ..errors import UserError, counted
from ..image import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from ..models import load_checkpoint
from ..spec.model import Task
from .settings import TeacherSettings

REACHABLE_SECONDS = 5.0
"""Time that a connection to the hub may take."""


class Teacher(nn.Module):
    """A frozen classifier fed with the student's images, put into the teacher's size and scaling."""

    def __init__(self, model: nn.Module, student: Preprocess, own: Preprocess) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.size = own.size
        # x_teacher = (x_student * std_s + mean_s - mean_t) / std_t, one multiply-add a channel.
        scale = [s / t for s, t in zip(student.std, own.std)]
        offset = [(s - t) / std for s, t, std in zip(student.mean, own.mean, own.std)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None])
        self.register_buffer("offset", torch.tensor(offset)[:, None, None])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Student's images (B, C, H, W), normalised -> teacher's logits (B, classes)."""
        images = torch.addcmul(self.get_buffer("offset"), images, self.get_buffer("scale"))
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode="bicubic", antialias=True, align_corners=False)
        logits: Tensor = self.model(images)
        return logits


def load_teacher(
    settings: TeacherSettings, student: Preprocess, class_names: Sequence[str], task: Task = "classify"
) -> Teacher | None:
    """Load the teacher that the settings name; None without one.

    Raises UserError if there is no such model, or it has another task, other classes or other channels than the
    student, or, where pixels are labelled, another size.
    """
    name = settings.teacher
    if name is None:
        return None
    name = str(bundled.find(name, ".safetensors"))
    if name.endswith(".safetensors"):
        network: nn.Module
        model = network = load_checkpoint(name)
        if model.class_names is not None and model.class_names != tuple(class_names):
            different = [f"{a} / {b}" for a, b in zip(model.class_names, class_names) if a != b]
            counts = f"{counted(len(model.class_names), 'class')}, the data has {len(class_names)}"
            raise UserError(f"the teacher {name} has other classes than the data: {(different or [counts])[0]}")
        if model.spec.task != task:
            raise UserError(f"the teacher {name} is to {model.spec.task} images, the student to {task} them")
        own = model.preprocess or Preprocess(
            size=model.spec.img_size, channels=student.channels, mean=student.mean, std=student.std
        )
        classes = model.spec.num_classes
        if task == "segment" and own.size != student.size:
            raise UserError(
                f"the teacher {name} labels {own.size[0]}x{own.size[1]} pixels, the student "
                f"{student.size[0]}x{student.size[1]}: both need the same --img-size"
            )
    elif task == "segment":
        raise UserError(f"the teacher {name} is no segmentation of this package: give a .safetensors checkpoint of one")
    else:
        network, own, classes = _from_timm(name, settings.teacher_file, len(class_names))
    if classes != len(class_names):
        raise UserError(
            f"the teacher {name} has {counted(classes, 'class')}, the data has {len(class_names)}: they must be "
            "the same"
        )
    if own.channels != student.channels:
        raise UserError(f"the teacher {name} takes {own.channels} channels, the student {student.channels}")
    return Teacher(network, student, own)


def _from_timm(name: str, file: str | None, classes: int) -> tuple[nn.Module, Preprocess, int]:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:1]
        hint = f"; did you mean {near[0]}?" if near else "; timm.list_models() gives their names"
        raise UserError(f"there is no teacher {name!r}, neither a .safetensors file nor a timm model{hint}")
    try:
        if file is not None:
            model = timm.create_model(name, checkpoint_path=file, num_classes=classes)
        else:
            with _offline_at_once():
                model = timm.create_model(name, pretrained=True)
    except Exception as error:  # hubs, files and networks fail in their own ways
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load the teacher {name}: {reason}; --set teacher_file=FILE takes its weights from the disk"
        ) from None
    settings = timm.data.resolve_model_data_config(model)
    own = Preprocess(
        size=tuple(settings["input_size"][1:]),
        channels=settings["input_size"][0],
        mean=tuple(settings.get("mean", IMAGENET_MEAN)),
        std=tuple(settings.get("std", IMAGENET_STD)),
    )
    return model, own, int(model.num_classes)


@contextlib.contextmanager
def _offline_at_once() -> Iterator[None]:
    """Look into the hub's cache alone where the hub cannot be reached.

    Its client would retry for more than a minute.
    """
    host = urllib.parse.urlsplit(constants.ENDPOINT)
    before = constants.HF_HUB_OFFLINE
    if not urllib.request.getproxies():
        try:
            socket.create_connection((host.hostname or "", host.port or 443), timeout=REACHABLE_SECONDS).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
