"""Floats in 8 bits: training rounds what a file stores and both readers decode."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bhvit
from bhvit import _native
from bhvit.cost.counts import bytes_by_kind
from bhvit.errors import FormatError
from bhvit.format import file as bhv_file
from bhvit.format.float_storage import decode, encode
from bhvit.models import create_model
from bhvit.models.quantizers import fake_quantize
from bhvit.packing import packed_model
from bhvit.runtime import reference
from helpers.random_model import random_images, random_model
from helpers.randomise import randomise
from helpers.small_specs import SPECS

_FLOATS = st.floats(-(2.0**90), 2.0**90, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=_FLOATS))
@example(np.array([[4.88e-42]], np.float32))  # its step is subnormal
def test_training_rounds_to_what_a_file_stores(values: Any) -> None:
    whole, scale = encode(values)
    rounded = fake_quantize(torch.from_numpy(values), 8, (values.ndim - 2,))
    np.testing.assert_array_equal(rounded.numpy(), decode(whole, scale))
    # Half a step, and 127 times what the step itself may be off where it is subnormal: half of the smallest number.
    least = float(np.finfo(np.float32).smallest_subnormal)
    away = np.abs(decode(whole, scale).astype(np.float64) - values)
    assert (away <= 0.51 * scale.astype(np.float64) + 127 * least / 2).all()


def test_gradients_pass_straight_through() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    weights = torch.randn(3, 5)
    (fake_quantize(x, 8, (0,)) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weights)
    assert fake_quantize(x, 32, (0,)) is x


@pytest.mark.parametrize("name", ["bhvit_nano", "bhvit_tiny_fp", "binaryvit_small"])
def test_a_model_trained_so_packs_without_loss(name: str) -> None:
    model = randomise(create_model(name, num_classes=10, img_size=32, float_bits=8), seed=1)
    packed, whole = packed_model(model), packed_model(model, float_storage="float32")
    eights = {key for key, tensor in packed.tensors.items() if tensor.dtype == np.int8}
    assert eights == {key for key in whole.tensors if key == "head.weight" or key.endswith(".position")}
    for op in packed.ops:
        for key, tensor in packed.op_tensors(op).items():
            np.testing.assert_array_equal(tensor, whole.tensor(op, key))
    with torch.no_grad():
        grid = model.stem.positions().reshape(-1, model.spec.stages[0].channels).numpy()
    np.testing.assert_array_equal(packed.tensor(packed.ops[0], "position"), grid)


def test_a_rounded_model_computes_otherwise() -> None:
    """The override acts: forward, and on the gradient of what it rounds."""
    plain = randomise(create_model("bhvit_nano", num_classes=10), seed=1).eval()
    rounded = create_model("bhvit_nano", num_classes=10, float_bits=8).eval()
    rounded.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(plain(images), rounded(images))
    rounded(images).sum().backward()
    for name in ("stem.position", "head.linear.weight"):
        gradient = rounded.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def _in_int8(model: bhv_file.PackedModel) -> bhv_file.PackedModel:
    """Every float tensor that may be int8 is."""
    tensors = dict(model.tensors)
    for key, tensor in model.tensors.items():
        if tensor.dtype == np.float32 and tensor.ndim >= 2:
            tensors[key], tensors[f"{key}.scale"] = encode(tensor)
    return dataclasses.replace(model, tensors=tensors)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_native_programs_equal_the_reference(spec: bhvit.ModelSpec) -> None:
    model = _in_int8(random_model(spec, seed=3))
    image = random_images(spec, 1)[0]
    data = bhv_file.to_bytes(model)
    assert bytes_by_kind(bhv_file.from_bytes(data))["int8"] > 0
    for isa in _native.available_isas():
        traced = _native.Program(data, 2, isa).trace(image)
        for (name, x), (_, native) in zip(reference.trace(model, image), traced, strict=True):
            np.testing.assert_array_equal(native, x, err_msg=f"{name}, {isa}")


def test_the_published_sizes_fit_their_targets(tmp_path: Path) -> None:
    for name, most in (("bhvit_small", 5_000_000), ("bhvit_tiny", 3_600_000)):
        path = tmp_path / f"{name}.bhv"
        bhvit.pack(create_model(name, float_bits=8).eval(), path)
        assert path.stat().st_size < most


def _damaged(change: str) -> tuple[dict[str, Any], str]:
    model = _in_int8(random_model(SPECS[0]))
    tensors = dict(model.tensors)
    scale = tensors["head.weight.scale"]
    if change == "missing":
        del tensors["head.weight.scale"]
        return tensors, "tensor head.weight.scale is missing"
    if change == "of no int8":
        tensors["stem.bias.scale"] = np.ones(1, np.float32)
        return tensors, "tensor stem.bias.scale belongs to no op"
    if change == "shape":
        tensors["head.weight.scale"] = scale[..., :8].copy()
        return tensors, "tensor head.weight.scale must be float32 of shape"
    if change == "vector":
        tensors["head.bias"], tensors["head.bias.scale"] = np.ones_like(tensors["head.bias"], np.int8), scale
        return tensors, "tensor head.bias has type int8, which needs two dimensions"
    values = {"zero": 0.0, "negative": -1.0, "infinite": np.inf, "nan": np.nan, "large": 2.0**93}
    tensors["head.weight.scale"] = scale * 0 + np.float32(values[change])
    return tensors, "tensor head.weight.scale holds numbers that are not positive or not below 2\\^93"


@pytest.mark.parametrize(
    "change", ["missing", "of no int8", "shape", "vector", "zero", "negative", "infinite", "nan", "large"]
)
def test_damaged_scales_are_refused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, message = _damaged(change)
    model = dataclasses.replace(random_model(SPECS[0]), tensors=tensors)
    with pytest.raises(FormatError, match=message):
        bhv_file.check(model)
    monkeypatch.setattr(bhv_file, "check", lambda model: None)
    data = bhv_file.to_bytes(model)
    with pytest.raises(ValueError, match=message):
        _native.Program(data, 1)
