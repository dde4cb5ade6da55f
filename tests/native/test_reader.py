"""The native reader refuses every damaged file with one line, and never crashes."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bhvit import _native
from bhvit.errors import FormatError
from bhvit.format import file as bhv_file
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_model

STAGES = (
    StageSpec(depth=1, channels=64, hidden=128, mixer="conv"),
    StageSpec(depth=1, channels=64, hidden=64, mixer="attention", heads=2, window=(2, 2)),
)
SPEC = ModelSpec(name="small-file", img_size=(8, 8), patch=2, num_classes=3, stages=STAGES)


@pytest.fixture(scope="module")
def data() -> bytes:
    return bhv_file.to_bytes(random_model(SPEC, half=True))


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        _native.Program(data)
    message = str(caught.value)
    assert message.isprintable()
    assert 10 < len(message) < 500


def resealed(text: bytes, tensors: bytes) -> bytes:
    """A file of this header and data whose checksum is right."""
    text += b" " * (-(len(text) + 8) % 64)
    whole = len(text).to_bytes(8, "little") + text + tensors
    return whole.replace(b'"checksum":"00000000"', b'"checksum":"%08x"' % zlib.crc32(whole), 1)


def changed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another header and a right checksum."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["checksum"] = "00000000"
    change(header)
    return resealed(json.dumps(header, separators=(",", ":")).encode(), data[8 + length :])


def with_program(data: bytes, change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    def rewrite(header: dict[str, Any]) -> None:
        program = json.loads(header["__metadata__"]["program"])
        change(program)
        header["__metadata__"]["program"] = json.dumps(program)

    return changed(data, rewrite)


def test_good_files_open(data: bytes) -> None:
    assert _native.Program(data).classes == 3
    assert changed(data, lambda header: None) == data
    assert _native.crc32(data) == zlib.crc32(data)
    for length in range(40):
        assert _native.crc32(data[:length]) == zlib.crc32(data[:length])


def test_cut_anywhere(data: bytes) -> None:
    for length in [*range(200), *range(200, len(data), 97), len(data) - 1]:
        refused(data[:length])
    refused(data + b"\0")


def test_both_readers_say_how_much_is_missing(data: bytes) -> None:
    header = 8 + int.from_bytes(data[:8], "little")
    alone, whole = f"its header alone needs {header}", f"its header says it needs {len(data)}"
    for length, said in ((8, alone), (100, alone), (header - 1, alone), (header, whole), (len(data) - 1, whole)):
        refused(data[:length], f"^cut short: it has {length} bytes, {said}; copy or download it again$")
        with pytest.raises(FormatError) as native:
            _native.Program(data[:length])
        with pytest.raises(FormatError) as python:
            bhv_file.from_bytes(data[:length])
        assert str(native.value) == str(python.value)


@pytest.mark.parametrize(
    "foreign", [b"", b"{", b"\xff\xd8\xff\xe0" + bytes(1000), b"these are notes, not a model", bytes(64)]
)
def test_both_readers_call_foreign_files_so(foreign: bytes) -> None:
    refused(foreign, "^not a .bhv file: ")
    with pytest.raises(FormatError) as native:
        _native.Program(foreign)
    with pytest.raises(FormatError) as python:
        bhv_file.from_bytes(foreign)
    assert str(native.value) == str(python.value)


def test_any_flipped_byte_of_the_header(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    damaged = bytearray(data)
    for at in range(8 + length):
        for bit in (1, 0x80):
            damaged[at] ^= bit
            refused(bytes(damaged))
            damaged[at] ^= bit


def test_flipped_bits_of_the_data(data: bytes) -> None:
    rng = np.random.default_rng(0)
    start = 8 + int.from_bytes(data[:8], "little")
    damaged = bytearray(data)
    for at in rng.integers(start, len(data), 300):
        mask = 1 << int(rng.integers(8))
        damaged[at] ^= mask
        refused(bytes(damaged), "checksum")
        damaged[at] ^= mask


def test_random_headers_with_right_checksums(data: bytes) -> None:
    """Flips that the checksum cannot catch: each is refused, or gives a program that runs."""
    length = int.from_bytes(data[:8], "little")
    start = data.index(b'"checksum":"') + 12
    header = bytearray(data[8 : 8 + length])
    header[start - 8 : start] = b"00000000"
    rng = np.random.default_rng(1)
    for _ in range(1500):
        text = bytearray(header)
        for at in rng.integers(0, length, rng.integers(1, 4)):
            text[at] = rng.choice(list(b'0123456789{}[]",:-.eE\\u\x00\xff '))
        try:
            program = _native.Program(resealed(bytes(text), data[8 + length :]))
        except FormatError:
            continue
        program.run(np.zeros((1, *program.input_shape), np.float32))


def test_numbers_that_are_not_finite_or_too_large() -> None:
    whole = bhv_file.to_bytes(random_model(SPEC))
    for value in (float("nan"), float("inf"), -float("inf"), 2.0**100, -(2.0**100)):
        refused(_with_float(whole, "head.bias", 1, value), "head.bias holds numbers that are not finite")


def test_a_softmax_that_would_divide_by_zero() -> None:
    whole = bhv_file.to_bytes(random_model(SPEC))
    name = next(key for key in random_model(SPEC).tensors if key.endswith(".exp_table"))
    for index, value in ((0, 0.0), (0, -0.0), (0, -1.0), (5, -1e-30)):
        refused(_with_float(whole, name, index, value), "the first must be positive")
    _native.Program(_with_float(whole, name, 5, -0.0))


def _with_float(whole: bytes, tensor: str, index: int, value: float) -> bytes:
    """The file with one float32 of a tensor changed and the checksum made right again."""
    length = int.from_bytes(whole[:8], "little")
    entry = json.loads(whole[8 : 8 + length])[tensor]
    tensors = bytearray(whole[8 + length :])
    struct.pack_into("<f", tensors, entry["data_offsets"][0] + 4 * index, value)
    text = whole[8 : 8 + length].rstrip()
    checksum = text.index(b'"checksum":"') + 12
    return resealed(text[:checksum] + b"00000000" + text[checksum + 8 :], bytes(tensors))


def _tensor(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


def _meta(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["__metadata__"].update(fields)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_meta(version="2"), "another version"),
        (_meta(version=1), "another version"),
        (_meta(format="bhvit2"), "not a .bhv file"),
        (_meta(program="[]"), "a program has 2 to 1024 ops, not 0"),
        (_meta(program="{}"), "program is not a list"),
        (_meta(program="[" * 100_000), "nested too deeply"),
        (_meta(program='[{"name":"' + "x" * 10_000 + '"},{}]'), "it has no kind"),
        (_meta(program='[{"name":"\\u001b[31m\\n"},{}]'), r"op \?\[31m\?: it has no kind"),
        (_meta(program='[{"name":"\\ud800"}]'), "surrogate"),
        (_meta(class_names='["a","b"]'), "3 classes, but 2 names"),
        (_meta(class_names="3"), "class_names is not a list"),
        (_meta(spec="[]"), "other images"),
        (_meta(spec=SPEC.to_json().replace("[8, 8]", "[8, 16]")), "other images"),
        (_meta(spec=SPEC.to_json().replace('"num_classes": 3', '"num_classes": 4')), "other classes"),
        (_meta(preprocess="7"), "preprocessing"),
        (_meta(spec=7), "lacks spec"),
        (lambda header: header["__metadata__"].pop("class_names"), "lacks class_names"),
        (lambda header: header.pop("__metadata__"), "not a .bhv file|no bhvit header"),
        (lambda header: header.pop("head.bias"), "gaps|after the last tensor|head.bias is missing"),
        (lambda header: header.update(extra=dict(header["head.bias"])), "overlap"),
        (_tensor("head.bias", dtype="F64"), "type F64"),
        (_tensor("head.bias", dtype="I16"), "type I16"),
        (_tensor("head.bias", shape=[4]), "does not fit its offsets"),
        (_tensor("head.bias", shape=[-3]), "its shape is damaged"),
        (_tensor("head.bias", shape=[3, 1]), "has shape"),
        (_tensor("head.bias", shape=[0]), "its shape is damaged"),
        (_tensor("head.bias", shape=[3.0]), "its shape is damaged"),
        (_tensor("head.bias", shape=[1 << 62, 4]), "its shape is damaged"),
        (_tensor("head.bias", shape=[10**30]), "its shape is damaged"),
        (_tensor("head.bias", shape=[1 << 31, 1 << 31, 1 << 31]), "over the limit"),
        (_tensor("head.bias", shape=[1] * 1000), "too many dimensions"),
        (_tensor("head.bias", shape=3), "its entry in the header is damaged"),
        (_tensor("head.bias", data_offsets=[0, 10**17]), "outside the file"),
        (_tensor("head.bias", data_offsets=[-6, 0]), "outside the file"),
        (_tensor("head.bias", data_offsets=[6, 0]), "outside the file"),
        (_tensor("head.bias", data_offsets=[0, 6]), "overlap"),
        (_tensor("head.bias", data_offsets=[0, 1 << 63]), "its offsets are damaged"),
        (_tensor("head.bias", data_offsets=[0]), "its offsets are damaged"),
        (_tensor("head.bias", data_offsets=["0", "6"]), "its offsets are damaged"),
        (_tensor("head.bias", more=1), "its entry in the header is damaged"),
    ],
)
def test_headers_that_lie(data: bytes, change: Callable[[dict[str, Any]], None], match: str) -> None:
    refused(changed(data, change), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p.pop(0), "a stem comes first"),
        (lambda p: p.pop(), "a head comes last"),
        (lambda p: p.insert(1, p[0]), "two ops have one name"),
        (lambda p: p.insert(1, {**p[0], "name": "again"}), "a stem comes first"),
        (lambda p: p[1].update(op="convolution"), "unknown kind 'convolution'"),
        (lambda p: p[1].update(extra=1), "other attributes"),
        (lambda p: p[1].pop("groups"), "other attributes"),
        (lambda p: p[1].update(height=0), "height must be 1 to 2048, not 0"),
        (lambda p: p[1].update(height=2.0), "height is missing or not an integer"),
        (lambda p: p[1].update(height=True), "height is missing or not an integer"),
        (lambda p: p[1].update(height=10**40), "height is missing or not an integer"),
        (lambda p: p[1].update(channels=1 << 40), "channels must be 1 to 8192"),
        (lambda p: p[1].update(groups=3), "multiple of 16 per group"),
        (lambda p: p[2].update(hidden=96), "hidden must be"),
        (lambda p: p[2].update(height=2), "takes 2x4x64, but"),
        (lambda p: p[4].update(heads=3), "channels per head"),
        (lambda p: p[4].update(window_h=3), "windows must divide"),
        (lambda p: [op.update(height=2048, width=2048) for op in p[:3]], "over the limit"),
        (lambda p: p[0].update(patch=4), "has shape|other images"),
        (lambda p: p[0].update(kernel=2), "kernel is left out where it equals patch"),
        (lambda p: p[0].update(kernel=1), "kernel must be patch plus an even number"),
        (lambda p: p[0].update(kernel=5), "kernel must be patch plus an even number"),
        (lambda p: p[0].update(kernel=66), "kernel must be 1 to 64"),
        (lambda p: p[0].update(kernel=None), "kernel is missing or not an integer|kernel must be 1 to 64"),
        (lambda p: p[0].update(kernel=4), "has shape"),
        (lambda p: p[1].update(kernel=4), "other attributes|takes"),
        (lambda p: p[-1].update(classes=1 << 20), "has shape"),
        (lambda p: p.extend([{**p[1], "name": str(i)} for i in range(1100)]), "2 to 1024 ops"),
    ],
)
def test_programs_that_lie(data: bytes, change: Callable[[list[dict[str, Any]]], Any], match: str) -> None:
    refused(with_program(data, change), match)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"nul",
        b"01",
        b'"\x01"',
        b'{"a":1,"a":2}',
        b"[" * 5000,
        b'{"a":' * 5000,
        b'{"__metadata__":3}',
        b'{"__metadata__":{"format":"bhvit"}}',
        b'{"__metadata__":{"format":"bhvit","version":"1","checksum":"00000000"}}',
    ],
)
def test_strange_json(text: bytes) -> None:
    refused(resealed(text, b""))
    refused(resealed(text, b"\0" * 64))
    refused(b"\xff" * 8 + text)
    refused((1 << 24).to_bytes(8, "little") + text)
