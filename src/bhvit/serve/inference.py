"""From a request's body to a model's answer; runs in the threads of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..bits import Floats
from ..decode import load_image
from ..runtime import Session
from .limits import Limits, RequestError
from .models import Model
from .tensors import Input, Output, read_input, read_outputs, split_body, write_response

INPUT = "images"
OUTPUTS = ("logits", "probabilities")


def metadata(model: Model) -> dict[str, Any]:
    """What the protocol says of a model."""
    spec = model.session.spec
    return {
        "name": model.name,
        "versions": ["1"],
        "platform": "bhvit",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, spec.in_chans, *spec.img_size]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, spec.num_classes]} for name in OUTPUTS],
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
        "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [spec.num_classes]} for name in OUTPUTS],
    }


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


def infer(model: Model, body: bytes, header_length: str | None, limits: Limits) -> tuple[bytes, dict[str, str]]:
    """Answer an inference request: the body of the response and its headers. Raises RequestError or UserError."""
    fields, binary = split_body(body, header_length)
    given = read_input(fields, binary, INPUT, limits)
    asked = read_outputs(fields, OUTPUTS)
    with model.borrowed() as session:
        logits = _logits(session, given, limits)
    model.count(len(logits))
    answers = {"logits": logits, "probabilities": _probabilities(logits)}
    outputs = [
        (output, _named(answers[output.name], output, session.class_names) if output.classes else answers[output.name])
        for output in asked
    ]
    named: dict[str, Any] = {"model_name": model.name, "model_version": "1"}
    if isinstance(fields.get("id"), str) and len(fields["id"]) <= 1024:
        named["id"] = fields["id"]
    return write_response(named, outputs)


def _logits(session: Session, given: Input, limits: Limits) -> Floats:
    if given.files is not None:
        images = [
            session.preprocess(_picture(session, file, f"image {number}", limits))
            for number, file in enumerate(given.files, 1)
        ]
        return session(np.concatenate(images)) if images else np.zeros((0, session.spec.num_classes), np.float32)
    assert given.array is not None
    if given.array.dtype == np.uint8 and given.array.ndim == 4:
        pixels = given.array.shape[1] * given.array.shape[2]
        if pixels > limits.pixels:
            raise RequestError(400, f"a picture has {pixels} pixels, at most {limits.pixels} are taken")
    return session(given.array)


def _picture(session: Session, file: bytes, name: str, limits: Limits) -> Image.Image:
    return load_image(file, name, max_pixels=limits.pixels, needed=session.preprocessing.needed)


def _probabilities(logits: Floats) -> Floats:
    wide = logits.astype(np.float64)
    odds = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray((odds / odds.sum(axis=1, keepdims=True)).astype(np.float32))


def _named(values: Floats, output: Output, names: Sequence[str]) -> npt.NDArray[Any]:
    """The classification extension: "value:index:name" of the greatest values, (B, classes) bytes."""
    best = np.argsort(-values, axis=1, kind="stable")[:, : output.classes]
    found = np.empty(best.shape, object)
    for row, column in np.ndindex(*best.shape):
        index = int(best[row, column])
        found[row, column] = f"{values[row, index]:f}:{index}:{names[index]}".encode()
    return found
