"""The Open Inference Protocol as the official client of Triton speaks it; answers are those of a session."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from bhvit import Session
from helpers.images import png
from helpers.serving import Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the client's own packages
    triton: Any = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
IMAGES = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
PICTURES = np.random.default_rng(1).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


def tensor(array: np.ndarray, kind: str, binary: bool = True) -> Any:
    made = triton.InferInput("images", list(array.shape), kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_health_and_metadata(client: Any, session: Session) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cifar10")
    assert client.is_model_ready("cifar10", "1")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata()["name"] == "bhvit"
    found = client.get_model_metadata("cifar10", "1")
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    assert [output["shape"] for output in found["outputs"]] == [[-1, 10], [-1, 10]]
    assert found["parameters"]["class_names"] == list(session.class_names)
    assert client.get_model_config("cifar10")["max_batch_size"] == 8
    assert [model["name"] for model in client.get_model_repository_index()] == ["cifar10"]
    with pytest.raises(triton.InferenceServerException, match="there is no model absent; known: cifar10"):
        client.get_model_metadata("absent")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tensors(client: Any, session: Session, binary_in: bool, binary_out: bool, compression: str | None) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "logits")]
    answer = client.infer(
        "cifar10",
        [tensor(IMAGES, "FP32", binary_in)],
        outputs=outputs,
        request_id="seven",
        request_compression_algorithm=compression,
    )
    assert answer.get_response()["id"] == "seven"
    expected = session(IMAGES)
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected)
    assert session.calibration is not None  # or the temperature would not show
    probabilities = session.probabilities(expected).astype(np.float32)
    np.testing.assert_array_equal(answer.as_numpy("probabilities"), probabilities)


def test_pictures_and_files(client: Any, session: Session) -> None:
    for binary in (True, False):
        answer = client.infer("cifar10", [tensor(PICTURES, "UINT8", binary)])
        np.testing.assert_array_equal(answer.as_numpy("logits"), session(PICTURES))
    files = [png(1), png(2, 1)]
    answer = client.infer("cifar10", [tensor(np.array(files, object), "BYTES")])
    expected = np.concatenate([session(session.preprocess(file)) for file in files])
    np.testing.assert_array_equal(answer.as_numpy("logits"), expected)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: Any, session: Session, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    found = client.infer("cifar10", [tensor(np.array([png(1)], object), "BYTES")], outputs=outputs)
    ((first, second),) = found.as_numpy("probabilities")
    expected = session.classify(png(1), top=2)
    for text, (name, probability) in zip((first, second), expected, strict=True):
        value, index, label = (text.decode() if isinstance(text, bytes) else text).split(":")
        assert (label, session.class_names[int(index)]) == (name, name)
        assert float(value) == pytest.approx(probability, abs=1e-6)


def test_no_images_have_no_answers(client: Any) -> None:
    answer = client.infer("cifar10", [tensor(IMAGES[:0], "FP32")])
    assert answer.as_numpy("logits").shape == (0, 10)


def test_statistics_count_requests_and_images(client: Any) -> None:
    def counts() -> tuple[int, int]:
        (found,) = client.get_inference_statistics("cifar10")["model_stats"]
        return found["execution_count"], found["inference_count"]

    before = counts()
    client.infer("cifar10", [tensor(IMAGES, "FP32")])
    assert counts() == (before[0] + 1, before[1] + 3)


def test_many_at_once(client: Any, server: Server, session: Session) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as several:
        waiting = [several.async_infer("cifar10", [tensor(IMAGES, "FP32")]) for _ in range(40)]
        expected = session(IMAGES)
        for one in waiting:
            np.testing.assert_array_equal(one.get_result().as_numpy("logits"), expected)


INPUT = {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32"}
ZEROS = [0.0] * 3072
DEEP = json.loads("[" * 50 + "1" + "]" * 50)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "must be a JSON object"),
        ({}, "a request has one input, images"),
        ({"inputs": [INPUT, INPUT]}, "a request has one input"),
        ({"inputs": [3]}, "a request has one input"),
        ({"inputs": [{**INPUT, "name": "x"}]}, "the input is called images, not 'x'"),
        ({"inputs": [{**INPUT, "shape": "1"}]}, "shape must be a list of whole numbers"),
        ({"inputs": [{**INPUT, "shape": []}]}, "shape must be a list of whole numbers"),
        ({"inputs": [{**INPUT, "shape": [1, -3]}]}, "shape must be a list of whole numbers"),
        ({"inputs": [{**INPUT, "shape": [True, 3]}]}, "shape must be a list of whole numbers"),
        ({"inputs": [{**INPUT, "shape": [9, 3, 32, 32]}]}, "at most 8 images, not 9"),
        ({"inputs": [{**INPUT, "shape": [1, 1 << 40]}]}, "too many dimensions or elements"),
        ({"inputs": [{**INPUT, "shape": [0, 1 << 80], "data": []}]}, "too many dimensions or elements"),
        ({"inputs": [{**INPUT, "shape": [1] * 70, "data": [1]}]}, "too many dimensions or elements"),
        ({"inputs": [{**INPUT, "shape": [1] + [10**4000] * 100}]}, "too many dimensions or elements"),
        ({"inputs": [{**INPUT, "data": ["x" * 100_000] + ["y"] * 100_000}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": [1, ["x" * 100_000], *[2] * 100_000]}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "datatype": "FP64"}]}, "datatype must be FP32, UINT8 or BYTES, not 'FP64'"),
        ({"inputs": [{**INPUT, "datatype": []}]}, "datatype must be"),
        ({"inputs": [INPUT]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": ["1"] * 3072}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": [[1], [1, 2]]}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": [True] * 3072}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": [10**400] * 10}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": DEEP}]}, "data must be numbers"),
        ({"inputs": [{**INPUT, "data": ZEROS[1:]}]}, "needs 3072 numbers, data has 3071"),
        ({"inputs": [{**INPUT, "data": [1e300] * 3072}]}, "NaN or infinity"),
        ({"inputs": [{**INPUT, "data": [1e9] * 3072}]}, "far beyond normalised pixels"),
        ({"inputs": [{**INPUT, "shape": [3, 32, 32], "data": ZEROS}]}, "images must be float32"),
        ({"inputs": [{**INPUT, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 256]}]}, "from 0 to 255"),
        ({"inputs": [{**INPUT, "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 1.5]}]}, "from 0 to 255"),
        ({"inputs": [{**INPUT, "datatype": "UINT8", "shape": [1, 1, 3, 1], "data": [1, 2]}]}, "needs 3 numbers"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 5}}]}, "binary_data_size is 5, and 0 bytes"),
        ({"inputs": [{**INPUT, "datatype": "BYTES", "shape": [1], "data": ["!"]}]}, "in base64"),
        ({"inputs": [{**INPUT, "datatype": "BYTES", "shape": [1], "data": [1]}]}, "a list of strings"),
        ({"inputs": [{**INPUT, "datatype": "BYTES", "shape": [2], "data": ["AAAA"]}]}, "holds 1 file"),
        ({"inputs": [{**INPUT, "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}]}, "image 1 is not an image"),
        ({"inputs": [{**INPUT, "data": ZEROS}], "outputs": [{"name": "x"}]}, "no output 'x'; known: logits, prob"),
        ({"inputs": [{**INPUT, "data": ZEROS}], "outputs": 3}, "outputs must be a list"),
        (
            {
                "inputs": [{**INPUT, "data": ZEROS}],
                "outputs": [{"name": "logits", "parameters": {"classification": -1}}],
            },
            "classification must be",
        ),
    ],
)
def test_wrong_requests_are_answered_with_a_line(server: Server, body: Any, said: str) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = httpx.post(f"{server.url}/v2/models/cifar10/infer", **sent)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "body", "said"),
    [
        ("x", b"{}", "inference-header-content-length"),
        ("9", b"{}", "at most the 2 of the body"),
        ("1" * 5000, b"{}", "at most the 2 of the body"),
        ("2", b"{}abc", "a request has one input"),
        (
            "full",
            {"inputs": [{**INPUT, "parameters": {"binary_data_size": 8}}]},
            "needs 12288 bytes, not 8",
        ),
        ("full", {"inputs": [{**INPUT}]}, "8 bytes follow the JSON, and no input has binary_data_size"),
        (
            "full",
            {"inputs": [{**INPUT, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}]},
            "cut short",
        ),
    ],
)
def test_wrong_binary_requests(server: Server, length: str, body: Any, said: str) -> None:
    head = body if isinstance(body, bytes) else json.dumps(body).encode()
    length, content = (str(len(head)), head + b"\xff" * 8) if length == "full" else (length, head)
    headers = {"Inference-Header-Content-Length": length}
    answer = httpx.post(f"{server.url}/v2/models/cifar10/infer", content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]


def test_the_server_has_made_no_mistake(server: Server) -> None:
    assert [event for event in server.log if event["level"] == "error"] == []
