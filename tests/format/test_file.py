"""The file's rules, as the Python reader holds them (the native reader has its own tests)."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from bhvit.errors import FormatError, UserError
from bhvit.format import Op
from bhvit.format import file as bhv_file
from bhvit.models import create_model
from bhvit.packing import packed_model
from helpers.randomise import randomise


@pytest.fixture(scope="module")
def model() -> bhv_file.PackedModel:
    return packed_model(randomise(create_model("bhvit_nano", num_classes=3)), class_names=["a", "b", "c"])


@pytest.fixture(scope="module")
def data(model: bhv_file.PackedModel) -> bytes:
    return bhv_file.to_bytes(model)


def _with_header(data: bytes, change: Any) -> bytes:
    """The file with its header changed by `change` and the checksum made right again."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["checksum"] = "00000000"
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return whole.replace(b'"checksum":"00000000"', b'"checksum":"%08x"' % zlib.crc32(whole), 1)


def test_a_file_round_trips(model: bhv_file.PackedModel, data: bytes) -> None:
    again = bhv_file.from_bytes(data)
    assert (again.spec, again.ops, again.class_names, again.preprocess) == (
        model.spec,
        model.ops,
        model.class_names,
        model.preprocess,
    )
    assert again.tensors.keys() == model.tensors.keys()
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert _with_header(data, lambda header: None) == data


def test_safetensors_opens_it_and_large_tensors_are_aligned(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.bhv"
    path.write_bytes(data)
    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "bhvit"
        assert "stages.0.0.mlp.weight1" in file.keys()  # noqa: SIM118 (not a mapping)
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and (entry["data_offsets"][1] - entry["data_offsets"][0]) % 64 == 0:
            assert entry["data_offsets"][0] % 64 == 0, name


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.001, 0.01, 0.3, 0.9, 0.99999])
def test_a_file_cut_short_is_refused(data: bytes, share: float) -> None:
    length, header = int(len(data) * share), 8 + int.from_bytes(data[:8], "little")
    claim = f"alone needs {header}" if length < header else f"says it needs {len(data)}"
    said = f"cut short: it has {length} bytes, its header {claim}; copy or download it again"
    with pytest.raises(FormatError, match=said if length >= 8 else f"not a .bhv file: {length} bytes hold no header"):
        bhv_file.from_bytes(data[:length])


def test_damaged_offsets_are_not_taken_for_a_cut(data: bytes) -> None:
    for offsets in ([0, 10**12], [0, "x"], [0], 7, None):
        changed = _with_header(data, lambda header, offsets=offsets: header["head.bias"].update(data_offsets=offsets))
        with pytest.raises(FormatError, match="not a whole safetensors file"):
            bhv_file.from_bytes(changed)


def test_any_flipped_byte_is_found(data: bytes) -> None:
    generator = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(0, header, 97), *generator.integers(header, len(data), 60).tolist()]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= int(generator.integers(1, 256))
        with pytest.raises(FormatError):
            bhv_file.from_bytes(bytes(damaged))


def test_another_version_and_foreign_files_are_refused(data: bytes, tmp_path: Path) -> None:
    newer = _with_header(data, lambda header: header["__metadata__"].update(version="9"))
    with pytest.raises(FormatError, match="version '9'; this bhvit reads version '1'"):
        bhv_file.from_bytes(newer)
    other = tmp_path / "cat.jpg"
    other.write_bytes(b"\xff\xd8\xff\xe0" + bytes(1000))
    with pytest.raises(FormatError, match=r"cat\.jpg: not a \.bhv file"):
        bhv_file.read(other)
    with pytest.raises(UserError, match="cannot read"):
        bhv_file.read(tmp_path / "absent.bhv")


CHANGES: dict[str, Any] = {
    "does not finish the tensors": lambda h: h["head.bias"].update(shape=[4]),
    "has sizes that lie": lambda h: h["head.bias"]["data_offsets"].__setitem__(1, 10**12),
    "lacks a key": lambda h: h["__metadata__"].pop("preprocess"),
    "lacks a tensor": lambda h: h.pop("head.bias"),
    "has a program that is not JSON": lambda h: h["__metadata__"].update(program="["),
    "has no ops": lambda h: h["__metadata__"].update(program="[]"),
    "has an unknown op": lambda h: h["__metadata__"].update(
        program=h["__metadata__"]["program"].replace('"mixer"', '"blender"')
    ),
    "has huge attributes": lambda h: h["__metadata__"].update(
        program=h["__metadata__"]["program"].replace('"channels":64', '"channels":1000000000')
    ),
    "has too few names": lambda h: h["__metadata__"].update(class_names='["a"]'),
    "has deep JSON": lambda h: h["__metadata__"].update(program="[" * 100000),
    "has no spec": lambda h: h["__metadata__"].update(spec="{}"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_header_that_breaks_a_rule_is_refused_in_one_line(data: bytes, change: Any) -> None:
    with pytest.raises(UserError) as caught:
        bhv_file.from_bytes(_with_header(data, change))
    assert "\n" not in str(caught.value)


def test_ops_that_do_not_chain_are_refused(model: bhv_file.PackedModel) -> None:
    swapped = list(model.ops)
    swapped[1], swapped[-1] = swapped[-1], swapped[1]
    with pytest.raises(FormatError, match="a head comes last"):
        bhv_file.check(dataclasses.replace(model, ops=tuple(swapped)))
    without = tuple(op for op in model.ops if op.name != "downsamples.0")
    with pytest.raises(FormatError, match=r"takes 4x4x128, but stages\.0\.1\.mlp gives 8x8x64"):
        bhv_file.check(dataclasses.replace(model, ops=without))


def test_tensors_of_the_wrong_type_or_shape_are_named(model: bhv_file.PackedModel) -> None:
    cases: list[tuple[str, Any, str]] = [
        ("head.bias", np.zeros(4, np.float32), r"head\.bias has shape \[4\], its op needs \[3\]"),
        ("head.bias", np.zeros(3, np.float64), r"head\.bias has type float64"),
        ("stages.0.0.mlp.weight1", np.zeros((16, 2, 16), np.float32), "its op needs bits"),
        ("head.bias", np.full(3, np.inf, np.float32), "not finite"),
        ("head.bias", np.full(3, 2.0**100, np.float32), "or of 2"),
        ("stages.1.0.mixer.exp_table", np.zeros(65, np.float32), "the first must be positive"),
        ("stages.1.0.mixer.exp_table", np.full(65, -1.0, np.float32), "the first must be positive"),
    ]
    for name, tensor, message in cases:
        with pytest.raises(FormatError, match=message):
            bhv_file.check(dataclasses.replace(model, tensors={**model.tensors, name: tensor}))


def test_an_op_takes_exactly_its_attributes() -> None:
    good = {"op": "mixer", "name": "m", "height": 4, "width": 4, "channels": 64, "groups": 4}
    assert Op.from_json(good).to_json() == good
    for bad in [
        {**good, "extra": 1},
        {**good, "height": 0},
        {**good, "height": 1.0},
        {**good, "height": True},
        {**good, "channels": 96},
        {k: v for k, v in good.items() if k != "groups"},
        3,
        {},
    ]:
        with pytest.raises(FormatError):
            Op.from_json(bad)
