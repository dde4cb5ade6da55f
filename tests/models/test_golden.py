"""Agreement with recorded outputs and gradients of the published code, in float64."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bhvit.models import from_published, to_published, trace
from bhvit.models.published.names import published_names
from helpers.shared import shared

CASES = [
    ("tiny_binary", "bhvit_tiny", 1, 2),
    ("tiny_somefp", "bhvit_tiny_fp", 2, 2),
    ("small_binary", "bhvit_small", 3, 1),
    ("tiny_gsb", "bhvit_tiny", 4, 1),
    ("binaryvit_binary", "binaryvit_small", 5, 1),
]


def _synthetic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synthetic", shared("golden", "synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("case", "name", "seed", "batch"), CASES)
def test_outputs_and_gradients_agree_with_the_published_code(case: str, name: str, seed: int, batch: int) -> None:
    synthetic = _synthetic()
    expected = np.load(shared("golden", f"{case}.npz"))
    shapes = json.loads(shared("golden", "shapes.json").read_text())[case]
    published = synthetic.state_dict(shapes, seed)
    model = from_published(published)
    assert model.spec.name == name
    names = published_names(model.spec)
    images = torch.tensor(synthetic.images(batch, 224, seed))

    logits = model(images)
    np.testing.assert_allclose(logits.detach().numpy(), expected["logits"], rtol=1e-8, atol=1e-10)
    loss = F.cross_entropy(logits, torch.arange(batch))
    np.testing.assert_allclose(loss.item(), expected["loss"], rtol=1e-8)

    loss.backward()
    gradients = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
    assert set(gradients) == {str(key) for key in expected["grad.names"]}
    for key, l2, total in zip(expected["grad.names"], expected["grad.l2"], expected["grad.sum"], strict=True):
        gradient = gradients[str(key)]
        assert gradient is not None
        np.testing.assert_allclose(gradient.norm().item(), l2, rtol=1e-8, err_msg=str(key))
        np.testing.assert_allclose(gradient.sum().item(), total, rtol=1e-8, atol=1e-8 * l2, err_msg=str(key))


@pytest.mark.parametrize(("case", "name", "seed", "batch"), CASES)
def test_activations_after_each_block_agree_with_the_published_code(
    case: str, name: str, seed: int, batch: int
) -> None:
    synthetic = _synthetic()
    expected = np.load(shared("golden", f"{case}.npz"))
    shapes = json.loads(shared("golden", "shapes.json").read_text())[case]
    model = from_published(synthetic.state_dict(shapes, seed))
    seen = trace(model, torch.tensor(synthetic.images(batch, 224, seed)))
    binaryvit = name.startswith("binaryvit")  # recorded without the stem, corners as (B, N, C)
    # A published block that ends a stage is recorded as it leaves the block, before downsampling.
    blocks = [value for key, value in seen.items() if key == "stem" or key.endswith(".mlp")]
    recorded = ["stem", *(f"block{i}" for i in range(len(blocks) - 1))]
    for key, grid in list(zip(recorded, blocks, strict=True))[binaryvit:]:
        np.testing.assert_allclose(grid.mean(dim=(1, 2)), expected[f"{key}.mean"], rtol=1e-8, atol=1e-9, err_msg=key)
        corner = grid.flatten(1, 2)[:, :9, :8] if binaryvit else grid.permute(0, 3, 1, 2)[:, :8, :3, :3]
        np.testing.assert_allclose(corner, expected[f"{key}.corner"], rtol=1e-8, atol=1e-9, err_msg=key)


@pytest.mark.parametrize(("case", "name", "seed", "batch"), CASES)
def test_published_names_and_shapes_come_back_exactly(case: str, name: str, seed: int, batch: int) -> None:
    shapes = json.loads(shared("golden", "shapes.json").read_text())[case]
    published = _synthetic().state_dict(shapes, seed)
    back = to_published(from_published(published))
    assert back.keys() == published.keys()
    for key, value in published.items():
        np.testing.assert_array_equal(back[key].numpy(), value, err_msg=key, strict=True)
