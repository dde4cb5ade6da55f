"""Agreement with recorded outputs and gradients of the published code, in float64."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bhvit.models import create_model, trace
from bhvit.models.published import published_state, to_published_names
from shared import shared

CASES = [
    ("tiny_binary", "bhvit_tiny", 1, 2),
    ("tiny_somefp", "bhvit_tiny_fp", 2, 2),
    ("small_binary", "bhvit_small", 3, 1),
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
    model = create_model(name).double().eval()
    published = synthetic.state_dict(shapes, seed)
    names = to_published_names(model.spec)
    assert set(names.values()) == set(published)
    model.load_state_dict(
        {key: torch.as_tensor(value) for key, value in published_state(model.spec, published).items()}
    )
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
    model = create_model(name).double().eval()
    state = published_state(model.spec, synthetic.state_dict(shapes, seed))
    model.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    seen = trace(model, torch.tensor(synthetic.images(batch, 224, seed)))
    # A published block that ends a stage is recorded as it leaves the block, before downsampling.
    blocks = [value for key, value in seen.items() if key == "stem" or key.endswith(".mlp")]
    recorded = ["stem", *(f"block{i}" for i in range(len(blocks) - 1))]
    for key, grid in zip(recorded, blocks, strict=True):
        np.testing.assert_allclose(grid.mean(dim=(1, 2)), expected[f"{key}.mean"], rtol=1e-8, atol=1e-9, err_msg=key)
        corner = grid.permute(0, 3, 1, 2)[:, :8, :3, :3]
        np.testing.assert_allclose(corner, expected[f"{key}.corner"], rtol=1e-8, atol=1e-9, err_msg=key)
