"""Tensors of the Open Inference Protocol: JSON numbers, or bytes after the JSON.

The latter is the protocol's binary data extension.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import counted
from .limits import Limits, RequestError

HEADER_LENGTH = "inference-header-content-length"
"""The header that says where the JSON ends and the bytes begin."""
_TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_MAX_ELEMENTS = 1 << 31
_MAX_DIMENSIONS = 8


class Input:
    """The input tensor of a request: an array, or the bytes of image files."""

    def __init__(self, array: npt.NDArray[Any] | None, files: Sequence[bytes] | None) -> None:
        self.array, self.files = array, files


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object of a request's body, and the bytes after it. Raises RequestError."""
    end = len(body)
    if header_length is not None:
        digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
        if not digits or int(header_length) > len(body):
            raise RequestError(400, f"{HEADER_LENGTH} must be the bytes of JSON, at most the {len(body)} of the body")
        end = int(header_length)
    try:
        fields = json.loads(body[:end])
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "the request must be a JSON object")
    return fields, memoryview(body)[end:]


def read_input(fields: Mapping[str, Any], binary: memoryview, name: str, limits: Limits) -> Input:
    """Read the only input of a request.

    Raises RequestError if it is not a complete tensor called `name`.
    """
    inputs = fields.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise RequestError(400, f"a request has one input, {name}")
    described = inputs[0]
    if described.get("name") != name:
        raise RequestError(400, f"the input is called {name}, not {_short(described.get('name'))}")
    shape, kind = described.get("shape"), described.get("datatype")
    if not (isinstance(shape, list) and shape and all(type(edge) is int and edge >= 0 for edge in shape)):
        raise RequestError(400, f"the input's shape must be a list of whole numbers, not {_short(shape)}")
    if shape[0] > limits.batch:
        raise RequestError(400, f"a request has at most {counted(limits.batch, 'image')}, not {shape[0]}")
    parameters = described.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None and len(binary):
        raise RequestError(400, f"{len(binary)} bytes follow the JSON, and no input has binary_data_size")
    if size is not None and (type(size) is not int or size != len(binary)):
        raise RequestError(400, f"binary_data_size is {_short(size)}, and {len(binary)} bytes follow the JSON")
    if kind == "BYTES":
        files = _files(described.get("data")) if size is None else _split_strings(binary)
        if shape != [len(files)]:
            raise RequestError(400, f"BYTES of the shape {_short(shape)} holds {counted(len(files), 'file')}")
        return Input(None, files)
    if not isinstance(kind, str) or kind not in _TYPES:
        raise RequestError(400, f"datatype must be FP32, UINT8 or BYTES, not {_short(kind)}")
    if (
        len(shape) > _MAX_DIMENSIONS
        or math.prod(min(max(1, edge), _MAX_ELEMENTS + 1) for edge in shape) > _MAX_ELEMENTS
    ):
        raise RequestError(400, f"the shape {_short(shape)} has too many dimensions or elements")
    count = math.prod(shape)
    dtype = _TYPES[kind]
    if size is not None:
        if size != count * dtype.itemsize:
            raise RequestError(400, f"{kind} of the shape {shape} needs {count * dtype.itemsize} bytes, not {size}")
        return Input(np.frombuffer(binary, dtype).reshape(shape), None)
    numbers = _numbers(described.get("data"), dtype, kind)
    if len(numbers) != count:
        raise RequestError(400, f"the shape {shape} needs {count} numbers, data has {len(numbers)}")
    return Input(numbers.reshape(shape), None)


def _numbers(data: Any, dtype: np.dtype[Any], kind: str) -> npt.NDArray[Any]:
    """JSON numbers, nested or flat, as a flat array."""
    try:
        # Of strings, NumPy would make an array whose every element has the length of the longest.
        values = np.array(data if _of_numbers(data) else None)
    except (ValueError, OverflowError):
        values = np.array(None)
    if values.dtype.kind not in "iuf":
        raise RequestError(400, "the input's data must be numbers, in one list or nested as its shape")
    if kind == "UINT8" and ((values < 0) | (values > 255) | (values != np.floor(values))).any():
        raise RequestError(400, "UINT8 data must be whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return values.ravel().astype(dtype)


def _of_numbers(data: Any) -> bool:
    """Whether data is a list of numbers, or of lists of them to a depth that a tensor may have."""
    level = [data]
    for _ in range(_MAX_DIMENSIONS):
        if not all(isinstance(value, list) for value in level):
            return False
        level = list(itertools.chain.from_iterable(level))
        if all(isinstance(value, int | float) for value in level):
            return True
    return False


def _files(data: Any) -> list[bytes]:
    """Image files as JSON: strings in base64."""
    if not (isinstance(data, list) and all(isinstance(text, str) for text in data)):
        raise RequestError(400, "BYTES data must be a list of strings, image files in base64")
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except ValueError:
        raise RequestError(400, "BYTES data must be image files in base64") from None


def _split_strings(binary: memoryview) -> list[bytes]:
    """Byte strings, each after its length in four bytes."""
    found = []
    offset = 0
    while offset < len(binary):
        if offset + 4 > len(binary):
            raise RequestError(400, "BYTES data is cut short")
        (size,) = struct.unpack_from("<I", binary, offset)
        offset += 4
        if offset + size > len(binary):
            raise RequestError(400, "BYTES data is cut short")
        found.append(bytes(binary[offset : offset + size]))
        offset += size
    return found


class Output:
    """An output that a request asks for."""

    def __init__(self, name: str, binary: bool, classes: int) -> None:
        self.name, self.binary, self.classes = name, binary, classes


def read_outputs(fields: Mapping[str, Any], known: Sequence[str]) -> list[Output]:
    """The outputs that a request asks for, by default the first of `known`. Raises RequestError."""
    parameters = fields.get("parameters")
    all_binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    asked = fields.get("outputs")
    if asked is None or asked == []:
        return [Output(known[0], all_binary, 0)]
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked) or len(asked) > 2 * len(known):
        raise RequestError(400, "outputs must be a list of objects with a name")
    found = []
    for one in asked:
        if one.get("name") not in known:
            raise RequestError(400, f"there is no output {_short(one.get('name'))}; known: {', '.join(known)}")
        own = one.get("parameters") if isinstance(one.get("parameters"), dict) else {}
        classes = own.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise RequestError(400, "classification must be a number of classes")
        found.append(Output(one["name"], own.get("binary_data", all_binary) is True, classes))
    return found


def write_response(
    fields: dict[str, Any], outputs: Sequence[tuple[Output, npt.NDArray[Any]]]
) -> tuple[bytes, dict[str, str]]:
    """Return an answer's body and headers.

    Strings are arrays of the type object that hold bytes.
    """
    described = []
    chunks: list[bytes] = []
    for output, array in outputs:
        strings = array.dtype == object
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": "BYTES" if strings else "UINT8" if array.dtype == np.uint8 else "FP32",
            "shape": list(array.shape),
        }
        if output.binary:
            data = (
                b"".join(struct.pack("<I", len(text)) + text for text in array.ravel())
                if strings
                else array.astype(array.dtype.newbyteorder("<")).tobytes()
            )
            tensor["parameters"] = {"binary_data_size": len(data)}
            chunks.append(data)
        elif strings:
            tensor["data"] = [text.decode(errors="replace") for text in array.ravel()]
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    head = json.dumps({**fields, "outputs": described}, allow_nan=False).encode()
    if not chunks:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join((head, *chunks)), headers


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
