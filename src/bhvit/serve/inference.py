"""From a request's body to a model's answer; runs in the threads of the pool."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..bits import Floats
from ..decode import load_image
from ..runtime import Session
from ..runtime.overlays import index_image, jpeg, overlay
from ..spec.model import ModelSpec, Task
from .limits import Limits, RequestError
from .models import Model
from .tensors import Input, Output, read_input, read_outputs, split_body, write_response

INPUT = "images"
OUTPUTS: Mapping[Task, tuple[str, str]] = {"classify": ("logits", "probabilities"), "segment": ("labels", "logits")}
"""Of each task; the first is what a request gets that asks for none."""
SEGMENT_FORMATS = ("labels", "overlay", "json")


def metadata(model: Model) -> dict[str, Any]:
    """What the protocol says of a model."""
    spec = model.session.spec
    return {
        "name": model.name,
        "versions": ["1"],
        "platform": "bhvit",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, spec.in_chans, *spec.img_size]}],
        "outputs": [
            {"name": name, "datatype": "UINT8" if name == "labels" else "FP32", "shape": [-1, *_shape(spec, name)]}
            for name in OUTPUTS[spec.task]
        ],
        "parameters": {
            "class_names": list(model.session.class_names),
            "other_inputs": "UINT8 (B, height, width, channels): pictures; BYTES (B): image files",
        },
    }


def configuration(model: Model, batch: int) -> dict[str, Any]:
    """The same as Triton's configuration of a model."""
    spec = model.session.spec
    return {
        "name": model.name,
        "platform": "bhvit",
        "backend": "bhvit",
        "max_batch_size": batch,
        "input": [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [spec.in_chans, *spec.img_size]}],
        "output": [
            {"name": name, "data_type": "TYPE_UINT8" if name == "labels" else "TYPE_FP32", "dims": _shape(spec, name)}
            for name in OUTPUTS[spec.task]
        ],
    }


def _shape(spec: ModelSpec, output: str) -> list[int]:
    """Of an image's output."""
    if spec.task == "classify":
        return [spec.num_classes]
    return [*spec.img_size] if output == "labels" else [spec.num_classes, *spec.img_size]


def classify(model: Model, files: Sequence[bytes], top: int, limits: Limits) -> list[dict[str, Any]]:
    """The likeliest classes of image files. Raises UserError naming one that cannot be read."""
    answers = []
    with model.borrowed() as session:
        for number, file in enumerate(files, 1):
            name = "the image" if len(files) == 1 else f"image {number}"
            classes = session.classify(_picture(session, file, name, limits), top)
            answers.append({"classes": [{"name": name, "probability": value} for name, value in classes]})
    model.count(len(files))
    return answers


def segment(
    model: Model, file: bytes, form: str, windows: bool, limits: Limits
) -> tuple[bytes | dict[str, Any], str | None]:
    """Label an image file's pixels; return the content and its media type.

    The media type is None for JSON.

    `form` is one of `SEGMENT_FORMATS`: a PNG whose pixels are classes, a JPEG of the picture under their colours, or
    the share of each class. Raises UserError for an image that cannot be read.
    """
    with model.borrowed() as session:
        picture = load_image(file, "the image", max_pixels=limits.pixels)
        labels = session.segment(picture, windows=windows)
        names = session.class_names
    model.count(1)
    if form == "json":
        shares = np.bincount(labels.reshape(-1), minlength=len(names)) / labels.size
        classes = [{"name": name, "share": float(share)} for name, share in zip(names, shares, strict=True)]
        return {"height": labels.shape[0], "width": labels.shape[1], "classes": classes}, None
    if form == "overlay":
        return jpeg(overlay(picture, labels, len(names))), "image/jpeg"
    data = io.BytesIO()
    index_image(labels, len(names)).save(data, "PNG")
    return data.getvalue(), "image/png"


def infer(model: Model, body: bytes, header_length: str | None, limits: Limits) -> tuple[bytes, dict[str, str]]:
    """Answer an inference request: the response's body and headers.

    Raises RequestError or UserError.
    """
    fields, binary = split_body(body, header_length)
    given = read_input(fields, binary, INPUT, limits)
    task = model.session.task
    asked = read_outputs(fields, OUTPUTS[task])
    if task == "segment" and any(output.classes for output in asked):
        raise RequestError(400, f"{model.name} labels pixels: classification is of models that classify images")
    with model.borrowed() as session:
        images = _prepared(session, given, limits)
        if task == "segment":
            answers = _label_answers(session, images, {output.name for output in asked}, limits)
        else:
            logits = session(images)
            answers = {"logits": logits, "probabilities": session.probabilities(logits).astype(np.float32)}
    model.count(len(images))
    outputs = [
        (output, _named(answers[output.name], output, session.class_names) if output.classes else answers[output.name])
        for output in asked
    ]
    named: dict[str, Any] = {"model_name": model.name, "model_version": "1"}
    if isinstance(fields.get("id"), str) and len(fields["id"]) <= 1024:
        named["id"] = fields["id"]
    return write_response(named, outputs)


def _prepared(session: Session, given: Input, limits: Limits) -> Floats | npt.NDArray[np.uint8]:
    """What a session takes."""
    if given.files is not None:
        images = [
            session.preprocess(_picture(session, file, f"image {number}", limits))
            for number, file in enumerate(given.files, 1)
        ]
        empty = np.zeros((0, session.spec.in_chans, *session.spec.img_size), np.float32)
        return np.concatenate(images) if images else empty
    assert given.array is not None
    if given.array.dtype == np.uint8 and given.array.ndim == 4:
        pixels = given.array.shape[1] * given.array.shape[2]
        if pixels > limits.pixels:
            raise RequestError(400, f"a picture has {pixels} pixels, at most {limits.pixels} are taken")
    return given.array


def _label_answers(
    session: Session, images: Floats | npt.NDArray[np.uint8], asked: set[str], limits: Limits
) -> dict[str, npt.NDArray[Any]]:
    """Labels of pixels, and logits only if they are asked for: they may be gigabytes."""
    spec = session.spec
    size = 4 * len(images) * spec.num_classes * spec.img_size[0] * spec.img_size[1]
    if "logits" in asked and size > limits.answer:
        raise RequestError(
            400, f"logits of these images have {size} bytes, at most {limits.answer} are sent: ask for labels"
        )
    labels, logits = [], []
    blocks = [images[start : start + 1] for start in range(len(images))] or [images]
    for block in blocks:  # one at a time, for the memory of their logits
        found = session(block)
        labels.append(found.argmax(axis=1).astype(np.uint8))
        if "logits" in asked:
            logits.append(found)
    answers: dict[str, npt.NDArray[Any]] = {"labels": np.concatenate(labels)}
    return {**answers, "logits": np.concatenate(logits)} if logits else answers


def _picture(session: Session, file: bytes, name: str, limits: Limits) -> Image.Image:
    return load_image(file, name, max_pixels=limits.pixels, needed=session.preprocessing.needed)


def _named(values: Floats, output: Output, names: Sequence[str]) -> npt.NDArray[Any]:
    """The classification extension: "value:index:name" of the greatest values, (B, classes) bytes."""
    best = np.argsort(-values, axis=1, kind="stable")[:, : output.classes]
    found = np.empty(best.shape, object)
    for row, column in np.ndindex(*best.shape):
        index = int(best[row, column])
        found[row, column] = f"{values[row, index]:f}:{index}:{names[index]}".encode()
    return found
