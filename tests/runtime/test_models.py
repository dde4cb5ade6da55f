"""Every packable model at its own size, and sizes that the published code cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bhvit import Session, format
from bhvit.models import BHViT, create_model, list_models
from bhvit.packing import pack
from bhvit.runtime import reference
from randomise import randomise

PACKABLE = [name for name in list_models() if name.startswith("bhvit")]


def _torch_op(model: BHViT, name: str, x: Tensor) -> Tensor:
    """What the part of `model` behind the op `name` makes of x, (1, H, W, C)."""
    if name.startswith("stages."):
        block = model.get_submodule(name.rpartition(".")[0])
        if name.endswith(".mixer"):
            return x + block.mixer(block.mixer_norm(x))  # type: ignore[operator]
        n = block.mlp_norm(x)  # type: ignore[operator]
        return x + block.mlp(n) + block.shift(n)  # type: ignore[operator]
    return model.get_submodule(name)(x)


SIZES = (32, 64, 96, 160, 192, 256, 320, 384, (160, 96), (32, 384))


@pytest.mark.parametrize(("name", "size"), [(n, None) for n in PACKABLE] + [("bhvit_tiny", size) for size in SIZES])
def test_a_model_runs_natively_as_in_torch(name: str, size: int | tuple[int, int] | None, tmp_path: Path) -> None:
    model = randomise(create_model(name, img_size=size), seed=5)
    path = tmp_path / "model.bhv"
    pack(model, path, leftovers="float32")
    image = torch.randn(1, 3, *model.spec.img_size, generator=torch.Generator().manual_seed(6))
    session = Session(path, threads=2)
    x, flipped, values = image, 0, 0
    for op, native in session.program.trace(image[0].numpy()):
        with torch.inference_mode():
            expected = _torch_op(model, op, x)[0].numpy()
        # Both were fed the same x, so only signs within rounding of their threshold may differ.
        apart = np.abs(native - expected) > 1e-4 * np.abs(expected).max()
        assert apart.mean() < 1e-3, op
        flipped, values = flipped + int(apart.sum()), values + apart.size
        x = torch.from_numpy(native)[None]
    assert flipped < 1e-4 * values
    assert session(image.numpy()).shape == (1, 1000)


# Not the † variants at full size: the reference takes minutes over their full-precision convolutions.
REFERENCE = [("bhvit_nano", None), ("bhvit_tiny", None), ("bhvit_small", None), ("bhvit_tiny_fp", 32)]


@pytest.mark.parametrize(("name", "size"), REFERENCE + [("bhvit_tiny", size) for size in (160, (96, 64), (32, 384))])
def test_a_model_gives_the_bits_of_the_reference(name: str, size: int | tuple[int, int] | None, tmp_path: Path) -> None:
    path = tmp_path / "model.bhv"
    pack(randomise(create_model(name, img_size=size), seed=7), path)
    packed = format.read(path)
    images = np.random.default_rng(8).normal(size=(2, 3, *packed.spec.img_size)).astype(np.float32)
    np.testing.assert_array_equal(Session(path)(images), reference.run(packed, images))
