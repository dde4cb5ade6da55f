"""One table of files, good and bad: the Python reader and the native one take and refuse the same."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session, UserError, _native
from bhvit.format import file as bhv_file
from bhvit.image import Preprocess
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_model
from helpers.sealed_file import sealed

STAGES = (
    StageSpec(depth=1, channels=64, hidden=128, mixer="conv"),
    StageSpec(depth=1, channels=64, hidden=64, mixer="attention", heads=2, window=(2, 2)),
)
SPEC = ModelSpec(name="small-file", img_size=(8, 8), patch=2, num_classes=3, stages=STAGES)
Header = dict[str, Any]


@pytest.fixture(scope="module")
def parts() -> tuple[str, bytes]:
    """The header of a good file without its checksum, and its tensors."""
    model = random_model(SPEC)
    usual = dataclasses.replace(model, preprocess=Preprocess(size=(8, 8), mean=(0.5, 0.25, 0.125), std=(0.5,) * 3))
    data = bhv_file.to_bytes(bhv_file.PackedModel(**vars(usual)))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["checksum"] = "00000000"
    return json.dumps(header, separators=(",", ":")), data[8 + length :]


def metadata(key: str, change: Callable[[str], str]) -> Callable[[str], str]:
    """Changes the text of one entry of the metadata."""

    def changed(header: str) -> str:
        fields = json.loads(header)
        fields["__metadata__"][key] = change(fields["__metadata__"][key])
        return json.dumps(fields, separators=(",", ":"))

    return changed


def entries(change: Callable[[Header], object]) -> Callable[[str], str]:
    """Changes the parsed header."""

    def changed(header: str) -> str:
        fields = json.loads(header)
        change(fields)
        return json.dumps(fields, separators=(",", ":"))

    return changed


def preprocess(**settings: Any) -> Callable[[str], str]:
    return metadata("preprocess", lambda text: json.dumps({**json.loads(text), **settings}))


def spec(**settings: Any) -> Callable[[str], str]:
    return metadata("spec", lambda text: json.dumps({**json.loads(text), **settings}))


def names(text: str) -> Callable[[str], str]:
    return metadata("class_names", lambda _: text)


def swapped(old: str, new: str, key: str = "program") -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return metadata(key, change)


def calibration(**settings: Any) -> Callable[[str], str]:
    """Adds a calibration, with changes; a setting of None is left out."""
    whole = {"temperature": 1.5, "score": "energy", "quantiles": list(range(101)), **settings}
    return entries(
        lambda h: h["__metadata__"].update(
            calibration=json.dumps({key: value for key, value in whole.items() if value is not None})
        )
    )


def deep(count: int) -> str:
    return "[" * count + "]" * count


GOOD: dict[str, Callable[[str], str]] = {
    "nothing changed": lambda header: header,
    "white space": lambda header: header.replace('},"', '} ,\n\t\r "', 40),
    "another entry of the metadata": entries(lambda h: h["__metadata__"].update(author="me")),
    "escapes": names(r'["\u0061\n\u00e9", "\ud83d\ude00", "/\/\"\\"]'),
    "names of any language": names('["кот", "猫", "😀"]'),
    "an empty name and one like another": names('["", "a", "A"]'),
    "whole numbers where floats may be": preprocess(mean=[0, 0, 1], std=[1, 1, 1], crop=1),
    "exponents": swapped('"mean": [0.5, 0.25', '"mean": [5E-1, 0.25e+0', "preprocess"),
    "a subnormal mean": preprocess(mean=[5e-324, 1e-310, 0]),
    "many digits": swapped('"mean": [0.5', '"mean": [0.5' + "0" * 300, "preprocess"),
    "minus zero": swapped('"mean": [0.5', '"mean": [-0.0', "preprocess"),
    "the smallest crop": preprocess(crop=0.001),
    "JPEG files decoded at a fraction": preprocess(draft=1.5),
    "JPEG files decoded in full, said": preprocess(draft=0),
    "no crop and no interpolation": metadata(
        "preprocess",
        lambda t: json.dumps(
            {key: value for key, value in json.loads(t).items() if key not in ("crop", "interpolation", "channels")}
        ),
    ),
    "a calibration": calibration(),
    "a calibration of extremes": calibration(temperature=0.01, score="max_logit", quantiles=[-1e30] * 100 + [1e30]),
}

BAD: dict[str, Callable[[str], Any]] = {
    "a repeated key in the header": lambda h: h.replace('"format":', '"format":"bhvit","format":', 1),
    "a repeated tensor": lambda h: h[:-1] + ',"head.bias":' + json.dumps(json.loads(h)["head.bias"]) + "}",
    "a repeated key, once escaped": lambda h: h.replace('"format":', '"f\\u006frmat":"bhvit","format":', 1),
    "a repeated key of an op": swapped('"op":', '"op":"stem","op":'),
    "a repeated key of the preprocessing": swapped('"crop":', '"crop":1,"crop":', "preprocess"),
    "a repeated key of the spec": swapped('"name":', '"name":"a","name":', "spec"),
    "a byte order mark": lambda h: "\ufeff" + h,
    "a byte order mark in the names": names('\ufeff["a","b","c"]'),
    "bytes that are no UTF-8": lambda h: h.encode().replace(b'"format"', b'"x\xff":"","format"', 1),
    "UTF-8 that is too long": lambda h: h.encode().replace(b'"format"', b'"x\xc0\xaf":"","format"', 1),
    "a surrogate as UTF-8": lambda h: h.encode().replace(b'"format"', b'"x\xed\xa0\x80":"","format"', 1),
    "a code point beyond all": lambda h: h.encode().replace(b'"format"', b'"x\xf4\x90\x80\x80":"","format"', 1),
    "UTF-8 that is cut": lambda h: h.encode().replace(b'"format"', b'"x\xe2\x82":"","format"', 1),
    "a high surrogate": names(r'["\ud800", "b", "c"]'),
    "a low surrogate": names(r'["\udc00", "b", "c"]'),
    "two high surrogates": names(r'["\ud800\ud800", "b", "c"]'),
    "surrogates in the wrong order": names(r'["\udc00\ud800", "b", "c"]'),
    "a surrogate in an op's name": swapped('"name":"stem"', r'"name":"stem\udfff"'),
    "a control character": names('["a\x01", "b", "c"]'),
    "a line break in a name": names('["a\n", "b", "c"]'),
    "an unknown escape": names(r'["\x41", "b", "c"]'),
    "a zero byte": names('["a\x00", "b", "c"]'),
    "a comma too many": names('["a", "b", "c",]'),
    "a comment": names('["a", "b", "c"] // names'),
    "single quotes": names("['a', 'b', 'c']"),
    "names that are numbers": names("[1, 2, 3]"),
    "names that are null": names('[null, "b", "c"]'),
    "names that are a string": names('"abc"'),
    "names that are an object": names('{"a": 1, "b": 2, "c": 3}'),
    "too many names": names('["a", "b", "c", "d"]'),
    "too few names": names('["a", "b"]'),
    "no names": names("[]"),
    "deep names": names(deep(100_000)),
    "a depth of 34": names(deep(34)),
    "a deep spec": metadata("spec", lambda _: deep(100_000)),
    "a deep part of the spec": metadata("spec", lambda t: t[:-1] + ', "more": ' + deep(100_000) + "}"),
    "a deep program": metadata("program", lambda _: deep(100_000)),
    "deep objects": metadata("preprocess", lambda _: '{"a":' * 100_000),
    "too many values": metadata("program", lambda _: "[" + "0," * 70_000 + "0]"),
    "too many values of the spec": metadata("spec", lambda t: t[:-1] + ', "more": [' + "0," * 70_000 + "0]}"),
    "NaN": swapped('"mean": [0.5', '"mean": [NaN', "preprocess"),
    "Infinity": swapped('"mean": [0.5', '"mean": [-Infinity', "preprocess"),
    "a number beyond floats": swapped('"mean": [0.5', '"mean": [1e400', "preprocess"),
    "a number that floats make zero": swapped('"mean": [0.5', '"mean": [1e-400', "preprocess"),
    "a whole number beyond floats": swapped('"mean": [0.5', '"mean": [1' + "0" * 320, "preprocess"),
    "a number of 401 characters": swapped('"mean": [0.5', '"mean": [0.5' + "0" * 400, "preprocess"),
    "a number that begins with 0": swapped('"mean": [0.5', '"mean": [00.5', "preprocess"),
    "a number that begins with a plus": swapped('"mean": [0.5', '"mean": [+0.5', "preprocess"),
    "a number that begins with a point": swapped('"mean": [0.5', '"mean": [.5', "preprocess"),
    "a number that ends with a point": swapped('"mean": [0.5', '"mean": [5.', "preprocess"),
    "a number with a comma": swapped('"mean": [0.5', '"mean": ["0,5"', "preprocess"),
    "means that are true": preprocess(mean=[True, True, True]),
    "means that are text": preprocess(mean=["0.5", "0.5", "0.5"]),
    "means that are one text": preprocess(mean="abc"),
    "means that are an object": preprocess(mean={"a": 1, "b": 1, "c": 1}),
    "two means": preprocess(mean=[0.5, 0.5]),
    "no mean": metadata("preprocess", lambda t: json.dumps({k: v for k, v in json.loads(t).items() if k != "mean"})),
    "a mean next to infinity": preprocess(mean=[1e308] * 3),
    "a deviation of zero": preprocess(std=[0, 1, 1]),
    "a negative deviation": preprocess(std=[1, -1, 1]),
    "a subnormal deviation": preprocess(std=[5e-324, 1, 1], mean=[0, 0, 0]),
    "a deviation next to infinity": preprocess(std=[1e308] * 3),
    "a crop of zero": preprocess(crop=0),
    "a draft below one": preprocess(draft=0.5),
    "a draft beyond all": preprocess(draft=17),
    "a negative draft": preprocess(draft=-1),
    "a draft that is no number": preprocess(draft=True),
    "a draft that is text": preprocess(draft="2"),
    "a crop next to zero": preprocess(crop=5e-324),
    "a crop above 1": preprocess(crop=1.0001),
    "a crop that is true": preprocess(crop=True),
    "a crop that is null": preprocess(crop=None),
    "an interpolation of another kind": preprocess(interpolation="box"),
    "an interpolation that is a list": preprocess(interpolation=["bilinear"]),
    "an interpolation that is null": preprocess(interpolation=None),
    "a size that is true": preprocess(size=[True, 8]),
    "a size with a point": preprocess(size=[8.0, 8]),
    "a size of other images": preprocess(size=[8, 16]),
    "a size of three": preprocess(size=[8, 8, 3]),
    "another number of channels": preprocess(channels=1),
    "channels that are true": preprocess(channels=True),
    "an unknown setting": preprocess(more=1),
    "preprocessing that is a list": metadata("preprocess", lambda _: "[]"),
    "a spec of other images": spec(img_size=[8, 16]),
    "a spec of images without end": swapped('"img_size": [8', '"img_size": [1e999', "spec"),
    "a spec with a point": spec(img_size=[8.0, 8]),
    "a spec of true channels": spec(in_chans=True),
    "a spec of other classes": spec(num_classes=4),
    "a spec whose classes are text": spec(num_classes="3"),
    "a spec of one edge": spec(img_size=8),
    "a spec whose size is text": spec(img_size="8x8"),
    "a spec that is null": metadata("spec", lambda _: "null"),
    "a spec that is a list": metadata("spec", lambda _: "[]"),
    "an extra field of a tensor": entries(lambda h: h["head.bias"].update(x=1)),
    "a missing field of a tensor": entries(lambda h: h["head.bias"].pop("dtype")),
    "a tensor that is a list": entries(lambda h: h.update({"head.bias": [1]})),
    "an unknown type": entries(lambda h: h["head.bias"].update(dtype="BF16")),
    "a type in small letters": entries(lambda h: h["head.bias"].update(dtype="f32")),
    "a shape with minus zero": lambda h: h.replace('"shape":[3]', '"shape":[-0]', 1),
    "an offset of minus zero": lambda h: h.replace('"data_offsets":[0,', '"data_offsets":[-0,', 1),
    "an offset with a point": lambda h: h.replace('"data_offsets":[0,', '"data_offsets":[0.0,', 1),
    "an offset that is false": lambda h: h.replace('"data_offsets":[0,', '"data_offsets":[false,', 1),
    "a shape beyond all": entries(lambda h: h["head.bias"].update(shape=[1 << 62, 4])),
    "a height with a point": swapped('"height":4', '"height":4.0'),
    "a height with an exponent": swapped('"height":4', '"height":4e0'),
    "a height that is true": swapped('"height":4', '"height":true'),
    "a height beyond all": swapped('"height":4', '"height":' + "9" * 60),
    "a height of zero": swapped('"height":4', '"height":0'),
    "a default that is written": swapped('"op":"mixer"', '"op":"mixer","norm":"batch"'),
    "a kernel that is the patch": swapped('"patch":2', '"patch":2,"kernel":2'),
    "a kernel of an odd number more": swapped('"patch":2', '"patch":2,"kernel":5'),
    "a kernel below the patch": swapped('"patch":2', '"patch":2,"kernel":1'),
    "a kernel that is null": swapped('"patch":2', '"patch":2,"kernel":null'),
    "a kernel for other weights": swapped('"patch":2', '"patch":2,"kernel":4'),
    "a kernel of an op without": swapped('"op":"mixer"', '"op":"mixer","kernel":4'),
    "a kernel instead of a patch": swapped('"patch":2', '"kernel":2'),
    "an option that is a list": swapped('"op":"mixer"', '"op":"mixer","norm":["layer"]'),
    "an unknown op": swapped('"op":"mixer"', '"op":"blender"'),
    "an op that is a list": swapped('"op":"mixer"', '"op":["mixer"]'),
    "metadata that is a list": entries(lambda h: h.update(__metadata__=[])),
    "metadata that holds a number": entries(lambda h: h["__metadata__"].update(more=1)),
    "metadata that holds null": entries(lambda h: h["__metadata__"].update(more=None)),
    "a version that is a number": entries(lambda h: h["__metadata__"].update(version=1)),
    "a calibration that is a list": entries(lambda h: h["__metadata__"].update(calibration="[]")),
    "a calibration that is empty": entries(lambda h: h["__metadata__"].update(calibration="")),
    "a calibration that is no text": entries(lambda h: h["__metadata__"].update(calibration={})),
    "a calibration with a repeated key": entries(
        lambda h: h["__metadata__"].update(calibration='{"temperature": 1, "temperature": 1}')
    ),
    "a deep calibration": entries(lambda h: h["__metadata__"].update(calibration=deep(100_000))),
    "a calibration without a temperature": calibration(temperature=None),
    "a calibration without a score": calibration(score=None),
    "a calibration without quantiles": calibration(quantiles=None),
    "a calibration with more": calibration(more=1),
    "a temperature of zero": calibration(temperature=0),
    "a temperature beyond all": calibration(temperature=100.5),
    "a temperature that is true": calibration(temperature=True),
    "a temperature that is text": calibration(temperature="1.5"),
    "an unknown score": calibration(score="entropy"),
    "a score that is a list": calibration(score=["energy"]),
    "too few quantiles": calibration(quantiles=list(range(100))),
    "too many quantiles": calibration(quantiles=list(range(102))),
    "quantiles that descend": calibration(quantiles=list(range(100, -1, -1))),
    "quantiles that are text": calibration(quantiles="0" * 101),
    "quantiles beyond all": calibration(quantiles=[0.0] * 100 + [2.0**100]),
    "a quantile that is true": calibration(quantiles=[False, *range(1, 101)]),
    "text after the end": lambda h: h + "{}",
    "an end that is missing": lambda h: h[:-1],
}

PYTHON_ONLY: dict[str, Callable[[str], str]] = {
    "a mixer of the spec": swapped('"mixer": "conv"', '"mixer": "convolution"', "spec"),
    "a depth of the spec": swapped('"depth": 1', '"depth": 1.5', "spec"),
    "stages that are missing": metadata(
        "spec", lambda t: json.dumps({key: value for key, value in json.loads(t).items() if key != "stages"})
    ),
    "a name that is a list": spec(name=["x"]),
    "an unknown field": spec(more=1),
}
"""The architecture in a spec is for training; native code reads of it what an input and an answer are."""


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_both_take(parts: tuple[str, bytes], change: Callable[[str], str]) -> None:
    data = sealed(change(parts[0]), parts[1])
    model = bhv_file.from_bytes(data)
    session = Session(data)
    assert (session.class_names, session.spec) == (model.class_names, model.spec)
    np.testing.assert_array_equal(
        session.preprocess(np.full((8, 8, 3), 77, np.uint8)), model.preprocess(np.full((8, 8, 3), 77, np.uint8))
    )


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_both_refuse(parts: tuple[str, bytes], change: Callable[[str], Any]) -> None:
    data = sealed(change(parts[0]), parts[1])
    for read in (_native.Program, bhv_file.from_bytes, Session):
        with pytest.raises(UserError) as caught:
            read(data)
        assert len(str(caught.value)) <= 2000
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", PYTHON_ONLY.values(), ids=PYTHON_ONLY.keys())
def test_a_session_checks_the_architecture_as_well(parts: tuple[str, bytes], change: Callable[[str], str]) -> None:
    data = sealed(change(parts[0]), parts[1])
    _native.Program(data)
    for read in (bhv_file.from_bytes, Session):
        with pytest.raises(UserError):
            read(data)


def test_random_changes_of_the_text(parts: tuple[str, bytes]) -> None:
    """Changes anywhere in the header: both readers take the file, or both refuse it with a UserError."""
    rng, header, taken = np.random.default_rng(3), parts[0].encode(), 0
    pieces = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"e", b".", b"1", b"\xff", b"\\ud800", b" "]
    for _ in range(600):
        text = bytearray(header)
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(len(text)))
            text[at : at + int(rng.integers(2))] = pieces[int(rng.integers(len(pieces)))]
        data = sealed(bytes(text), parts[1])
        answers = []
        for read in (Session, bhv_file.from_bytes):
            try:
                read(data)
                answers.append("taken")
            except UserError:
                answers.append("refused")
        assert answers[0] == answers[1], bytes(text)
        taken += answers[0] == "taken"
    assert 0 < taken < 600


def test_a_subnormal_tensor_is_taken_by_both() -> None:
    model = random_model(SPEC)
    tensors = {**model.tensors, "head.bias": np.array([1e-45, -1e-40, 0], np.float32)}
    data = bhv_file.to_bytes(dataclasses.replace(model, tensors=tensors))
    np.testing.assert_array_equal(bhv_file.from_bytes(data).tensors["head.bias"], tensors["head.bias"])
    _native.Program(data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.bhv"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        for read in (Session, bhv_file.read):
            with pytest.raises(UserError, match=r"cannot read .*: it is a pipe or a device"):
                read(path)


def test_files_that_are_too_large_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.bhv"
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)  # sparse
    for read in (Session, bhv_file.read):
        with pytest.raises(UserError, match="larger than the 2 GiB"):
            read(path)


def test_memory_is_refused_before_it_is_taken() -> None:
    """A small file whose windows of one token each attend to thousands of global ones."""
    resource = pytest.importorskip("resource")
    stage = StageSpec(depth=1, channels=32, hidden=32, mixer="attention", window=(1, 1))
    spec = ModelSpec(name="large", img_size=(63, 65), patch=1, in_chans=1, num_classes=2, stages=(stage,))
    data = bhv_file.to_bytes(random_model(spec, half=True))
    assert len(data) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"needs 2\d{3} MiB of memory or more, above the limit of 512 MiB"):
        Session(data)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000 * (1024 if os.uname().sysname == "Darwin" else 1)
    small = bhv_file.to_bytes(random_model(SPEC))
    needed = Session(small).program.memory_bytes
    assert Session(small, max_memory=needed).program.memory_bytes == needed
    for less in (needed - 1, needed // 2, 1):
        with pytest.raises(UserError, match="max_memory"):
            Session(small, max_memory=less)
