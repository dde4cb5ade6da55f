"""Packed programs against the models they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from bhvit.models import create_model, trace
from bhvit.packing import pack, packed_model
from bhvit.runtime import reference
from helpers.randomise import randomise

CASES = [
    ("bhvit_nano", 32),
    ("bhvit_nano", (48, 80)),
    ("bhvit_tiny", 32),
    ("bhvit_tiny", 96),
    ("bhvit_tiny_fp", (64, 32)),
    ("bhvit_small", 64),
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_packed_program_computes_the_model_op_by_op(name: str, size: int | tuple[int, int]) -> None:
    model = randomise(create_model(name, num_classes=11, img_size=size), seed=1)
    packed = packed_model(model, float_storage="float32")
    image = torch.randn(1, 3, *model.spec.img_size, generator=torch.Generator().manual_seed(2))
    expected = trace(model, image)
    for op, got in reference.trace(packed, image[0].numpy()):
        want = expected[op][0].numpy()
        # A sign at rounding distance from its threshold may fall either way; none did at these seeds.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=op)


def test_half_precision_is_for_position_maps_and_the_classifier_alone() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10), seed=3)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    whole, mixed, halved = (packed_model(model, float_storage=kind) for kind in ("float32", "mixed", "float16"))
    assert {n for n, tensor in mixed.tensors.items() if tensor.dtype == np.float16} == {"head.weight"}
    assert packed_model(model).tensors.keys() == mixed.tensors.keys()
    halves = {name for name, tensor in halved.tensors.items() if tensor.dtype == np.float16}
    assert halves == {"stem.position", "downsamples.0.position", "downsamples.1.position", "head.weight"}
    for name in halves:
        np.testing.assert_array_equal(halved.tensors[name], whole.tensors[name].astype(np.float16))
    a, b = (reference.run(packed, images.numpy()) for packed in (whole, halved))
    assert (a.argmax(1) == b.argmax(1)).all()


def test_the_same_model_gives_the_same_bytes() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    assert bhv_file.to_bytes(packed_model(model)) == bhv_file.to_bytes(packed_model(model))


def test_packing_leaves_the_model_as_it_was() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    packed_model(model)
    after = model.state_dict()
    assert all(after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items())


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"call model\.eval\(\)"):
        packed_model(create_model("bhvit_nano").train())


def test_numbers_that_are_not_finite_are_refused_by_name() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    with torch.no_grad():
        model.get_parameter("stages.1.0.mlp.norm1.weight")[3] = float("nan")
    with pytest.raises(UserError, match=r"tensor stages\.1\.0\.mlp\.scale1 holds numbers that are not finite"):
        packed_model(model)


def test_a_step_of_zero_is_refused_by_name() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    with torch.no_grad():
        model.get_parameter("stages.1.0.mixer.attention.quantizer.step").zero_()
    with pytest.raises(UserError, match=r"tensor stages\.1\.0\.mixer\.level_scale holds numbers that are not finite"):
        packed_model(model)


def test_class_names_that_do_not_match_are_refused() -> None:
    with pytest.raises(UserError, match="2 class names given for a model of 10 classes"):
        packed_model(create_model("bhvit_nano", num_classes=10).eval(), class_names=["a", "b"])


def test_an_output_that_exists_is_refused_without_force(tmp_path: Path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    path = tmp_path / "m.bhv"
    path.write_text("precious")
    with pytest.raises(UserError, match="exists; --force"):
        pack(model, path)
    assert path.read_text() == "precious"
    pack(model, path, force=True)
    assert bhv_file.read(path).spec == model.spec
    assert [p.name for p in tmp_path.iterdir()] == ["m.bhv"]


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=10))
    with pytest.raises(UserError, match="does not exist"):
        pack(model, tmp_path / "nowhere" / "m.bhv")
    with pytest.raises(UserError, match="it is a folder"):
        pack(model, tmp_path)


def test_a_model_of_another_package_is_refused(tmp_path):
    with pytest.raises(UserError, match="only models of this package can be packed, not Linear"):
        pack(torch.nn.Linear(2, 2), tmp_path / "model.bhv")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
