"""Segmentations over HTTP: `POST /segment`, and labels and logits of the Open Inference Protocol."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bhvit import Session
from bhvit.format import file as bhv_file
from bhvit.runtime.overlays import overlay
from bhvit.serve.inference import infer
from bhvit.serve.limits import Limits, RequestError
from bhvit.serve.models import Model
from helpers.images import png
from helpers.random_model import random_model
from helpers.serving import Server, running
from helpers.small_specs import LABELS


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "labels.bhv"
    bhv_file.write(random_model(LABELS), path)
    return path


@pytest.fixture(scope="module")
def server(labels: Path) -> Iterator[Server]:
    with running("cifar10", labels, "--max-batch", 8, "--max-pixels", 100_000) as started:
        yield started


def picture(size: tuple[int, int] = (30, 50)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def opened(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_pixels_are_labelled(server: Server, labels: Path) -> None:
    session = Session(labels)
    answer = httpx.post(f"{server.url}/segment", content=picture())  # the only model that labels pixels
    assert answer.headers["content-type"] == "image/png"
    expected = session.segment(picture())
    np.testing.assert_array_equal(opened(answer), expected)
    assert len(np.unique(expected)) > 1
    form = httpx.post(f"{server.url}/segment?model=labels&windows=1", files=[("file", picture())])
    np.testing.assert_array_equal(opened(form), session.segment(picture(), windows=True))
    drawn = httpx.post(f"{server.url}/segment?format=overlay", content=picture())
    assert drawn.headers["content-type"] == "image/jpeg"
    wanted = io.BytesIO()
    overlay(Image.open(io.BytesIO(picture())), expected, 3).save(wanted, "JPEG", quality=90)
    np.testing.assert_array_equal(opened(drawn), np.asarray(Image.open(wanted)))
    found = httpx.post(f"{server.url}/segment?format=json", content=picture()).json()
    assert (found["model"], found["height"], found["width"]) == ("labels", 30, 50)
    shares = {one["name"]: one["share"] for one in found["classes"]}
    assert shares == {name: (expected == label).mean() for label, name in enumerate(session.class_names)}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/segment?model=cifar10", picture(), 400, "the model cifar10 classifies images: POST /classify"),
        ("/classify?model=labels", picture(), 400, "the model labels labels pixels: POST /segment"),
        ("/segment?model=absent", picture(), 404, "there is no model absent"),
        ("/segment?format=tiff", picture(), 400, "format must be one of labels, overlay, json"),
        ("/segment?windows=2", picture(), 400, "windows must be 0 or 1"),
        ("/segment", b"", 400, "send the bytes of one image file"),
        ("/segment", b"nothing", 400, "the image"),
        ("/segment", picture((400, 400)), 400, "100000"),
        ("/segment?format=overlay", picture((70_000, 1)), 400, "too long for a JPEG file"),
    ],
)
def test_what_is_refused(server: Server, path: str, body: bytes, status: int, said: str) -> None:
    answer = httpx.post(server.url + path, content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_several_files_are_refused(server: Server) -> None:
    answer = httpx.post(f"{server.url}/segment", files=[("file", picture()), ("file", picture())])
    assert answer.status_code == 400
    assert "one image file" in answer.json()["error"]


def test_a_model_of_the_task_is_found_without_a_name(server: Server) -> None:
    assert httpx.post(f"{server.url}/classify", content=png(1)).json()["model"] == "cifar10"


def test_the_protocol_gives_labels_and_logits(server: Server, labels: Path) -> None:
    triton: Any = pytest.importorskip("tritonclient.http")
    session = Session(labels)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 12)).astype(np.float32)
    pictures = np.random.default_rng(1).integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        described = client.get_model_metadata("labels")
        assert [(one["name"], one["datatype"], one["shape"]) for one in described["outputs"]] == [
            ("labels", "UINT8", [-1, 8, 12]),
            ("logits", "FP32", [-1, 3, 8, 12]),
        ]
        assert client.get_model_config("labels")["output"][0] == {
            "name": "labels",
            "data_type": "TYPE_UINT8",
            "dims": [8, 12],
        }
        for array, kind in ((images, "FP32"), (pictures, "UINT8"), (images[:0], "FP32")):
            for binary in (True, False):
                given = triton.InferInput("images", list(array.shape), kind)
                given.set_data_from_numpy(array, binary_data=binary)
                wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "labels")]
                answer = client.infer("labels", [given], outputs=wanted)
                logits = session(array)
                np.testing.assert_array_equal(answer.as_numpy("logits"), logits)
                assert answer.get_output("labels")["datatype"] == "UINT8"
                np.testing.assert_array_equal(answer.as_numpy("labels"), logits.argmax(axis=1))
        default = client.infer("labels", [given])
        assert [output["name"] for output in default.get_response()["outputs"]] == ["labels"]
        given = triton.InferInput("images", [1], "BYTES")
        given.set_data_from_numpy(np.array([picture()], object))
        found = client.infer("labels", [given]).as_numpy("labels")
        np.testing.assert_array_equal(found, session.program.segment(session.preprocess(picture())))
        counted = [triton.InferRequestedOutput("logits", class_count=2)]
        with pytest.raises(triton.InferenceServerException, match="classification is of models that classify"):
            client.infer("labels", [given], outputs=counted)


def test_logits_are_bounded_and_labels_are_not(labels: Path) -> None:
    model = Model("labels", Session(labels), 1)
    body = (
        b'{"inputs": [{"name": "images", "shape": [2, 3, 8, 12], "datatype": "FP32", "data": [%s]}], "outputs": [%s]}'
    )
    numbers = b", ".join([b"0"] * (2 * 3 * 8 * 12))
    limits = Limits(answer=2 * 3 * 8 * 12 * 4 - 1)
    with pytest.raises(RequestError, match="logits of these images have 2304 bytes, at most 2303 are sent"):
        infer(model, body % (numbers, b'{"name": "logits"}'), None, limits)
    answer, _ = infer(model, body % (numbers, b'{"name": "labels"}'), None, limits)
    assert b'"UINT8"' in answer
