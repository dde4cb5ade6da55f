"""What is registered outside of the package, tried from training to running and forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import bhvit
from bhvit.format import file as bhv_file
from bhvit.format.program import program
from bhvit.models import create_model, load_checkpoint, save_checkpoint
from bhvit.packing import lowering, pack
from bhvit.runtime import reference
from bhvit.spec.registry import REGISTRIES
from helpers.randomise import randomise


def forget_all() -> None:
    """Forget everything that is registered."""
    lowering._LOWERINGS.clear()
    for registry in REGISTRIES.values():
        registry._makers.clear()


def check_trains_keeps_packs_and_runs(overrides: dict[str, Any], folder: Path) -> None:
    """A model with `overrides` trains a step, loads from a checkpoint, packs, and runs as in PyTorch."""
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=5, img_size=32, **overrides).train()
    images = torch.randn(4, 3, 32, 32)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    F.cross_entropy(model(images), torch.tensor([0, 1, 2, 4])).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())

    randomise(model, seed=3)
    save_checkpoint(model, folder / "m.safetensors")
    loaded = load_checkpoint(folder / "m.safetensors")
    assert loaded.spec == model.spec
    assert loaded.spec.registered

    pack(loaded, folder / "m.bhv", float_storage="float32")
    packed = bhv_file.read(folder / "m.bhv")
    assert not packed.spec.registered
    assert list(packed.ops) == program(packed.spec)
    with torch.inference_mode():
        expected = model(images).numpy()
    logits = reference.run(packed, images.numpy())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(bhvit.Session(folder / "m.bhv")(images.numpy()), logits)
