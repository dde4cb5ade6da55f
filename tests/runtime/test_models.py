"""Every model at its own size, every override of the spec, and sizes that the published code cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bhvit import Session, _native
from bhvit.bits import Floats
from bhvit.format import file as bhv_file
from bhvit.format.op import Op
from bhvit.format.ops import OPS
from bhvit.models import BHViT, create_model, list_models
from bhvit.packing import pack, packed_model
from bhvit.runtime import reference
from bhvit.verification.flips import count_flips, run_op, total
from helpers.randomise import randomise
from helpers.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_every_switch_runs_as_in_torch_on_every_instruction_set(name: str) -> None:
    model = randomise(BHViT(VARIANTS[name]), seed=1)
    packed = packed_model(model, float_storage="float32")
    image = torch.randn(1, 3, *model.spec.img_size, generator=torch.Generator().manual_seed(2))

    def run(op: Op, inputs: list[Floats]) -> Floats:
        got = OPS[op.kind].reference(op, packed.op_tensors(op), *inputs)
        with torch.inference_mode():
            want = run_op(model, op.name, *(torch.from_numpy(x)[None] for x in inputs))[0].numpy()
        # Both were fed the same values. A sign at rounding distance may fall either way; none did at these seeds.
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=op.name)
        return got

    exact = dict(reference.run_ops(packed, image[0].numpy(), run))
    data = bhv_file.to_bytes(packed)
    for isa in _native.available_isas():
        for threads in (1, 2, 3):
            for op, native in _native.Program(data, threads, isa).trace(image[0].numpy()):
                np.testing.assert_array_equal(native, exact[op], err_msg=f"{op}, {isa}, {threads} threads")


SIZES = (32, 64, 96, 160, (160, 96), (32, 384))
LARGE_SIZES = (192, 256, 320, 384)
ALIKE = ("bhvit_small_fp", "binaryvit_small_fp")
"""Models whose parts other models have, too."""


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param(n, None, marks=[pytest.mark.long] if n in ALIKE else []) for n in list_models()]
    + [("bhvit_tiny", size) for size in SIZES]
    + [pytest.param("bhvit_tiny", size, marks=pytest.mark.long) for size in LARGE_SIZES],
)
def test_a_model_runs_natively_as_in_torch(name: str, size: int | tuple[int, int] | None, tmp_path: Path) -> None:
    model = randomise(create_model(name, img_size=size), seed=5)
    path = tmp_path / "model.bhv"
    pack(model, path, float_storage="float32")
    image = torch.randn(1, 3, *model.spec.img_size, generator=torch.Generator().manual_seed(6))
    # Fed the same x, PyTorch and the file may part only where a value lies at rounding distance from its threshold.
    flips = count_flips(model, bhv_file.read(path), image[0].numpy())
    assert [op.name for op in flips if not op.explained] == []
    assert total(flips).flipped <= 3
    session = Session(path, threads=2)
    assert session(image.numpy()).shape == (1, 1000)


# Not the † variants at full size: the reference takes minutes over their full-precision convolutions.
REFERENCE = [
    *((name, None) for name in ("bhvit_nano", "bhvit_tiny", "bhvit_small", "binaryvit_small")),
    ("bhvit_tiny_fp", 32),
    ("binaryvit_small_fp", 64),
]


@pytest.mark.parametrize(("name", "size"), REFERENCE + [("bhvit_tiny", size) for size in (160, (96, 64), (32, 384))])
def test_a_model_gives_the_bits_of_the_reference(name: str, size: int | tuple[int, int] | None, tmp_path: Path) -> None:
    path = tmp_path / "model.bhv"
    pack(randomise(create_model(name, img_size=size), seed=7), path)
    packed = bhv_file.read(path)
    images = np.random.default_rng(8).normal(size=(2, 3, *packed.spec.img_size)).astype(np.float32)
    np.testing.assert_array_equal(Session(path)(images), reference.run(packed, images))
