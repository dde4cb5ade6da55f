"""Agreement with recorded outputs and gradients of the published code, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bhvit.models import from_published, to_published, trace
from bhvit.models.published.names import published_names
from helpers import golden

NAMES = {
    "tiny_binary": "bhvit_tiny",
    "tiny_somefp": "bhvit_tiny_fp",
    "small_binary": "bhvit_small",
    "tiny_gsb": "bhvit_tiny",
    "binaryvit_binary": "binaryvit_small",
}
"""What the architecture of each case is called here."""


@pytest.mark.parametrize("case", golden.CASES)
def test_outputs_and_gradients_agree_with_the_published_code(case: str) -> None:
    expected = golden.expected(case)
    published = golden.weights(case)
    model = from_published(published)
    assert model.spec.name == NAMES[case]
    names = published_names(model.spec)
    images = torch.tensor(golden.images(case))

    logits = model(images)
    np.testing.assert_allclose(logits.detach().numpy(), expected["logits"], rtol=1e-8, atol=1e-10)
    loss = F.cross_entropy(logits, torch.arange(len(images)))
    np.testing.assert_allclose(loss.item(), expected["loss"], rtol=1e-8)

    loss.backward()
    gradients = {names[key]: parameter.grad for key, parameter in model.named_parameters()}
    assert set(gradients) == {str(key) for key in expected["grad.names"]}
    for key, l2, total in zip(expected["grad.names"], expected["grad.l2"], expected["grad.sum"], strict=True):
        gradient = gradients[str(key)]
        assert gradient is not None
        np.testing.assert_allclose(gradient.norm().item(), l2, rtol=1e-8, err_msg=str(key))
        np.testing.assert_allclose(gradient.sum().item(), total, rtol=1e-8, atol=1e-8 * l2, err_msg=str(key))


@pytest.mark.parametrize("case", golden.CASES)
def test_activations_after_each_block_agree_with_the_published_code(case: str) -> None:
    expected = golden.expected(case)
    model = from_published(golden.weights(case))
    seen = trace(model, torch.tensor(golden.images(case)))
    binaryvit = NAMES[case].startswith("binaryvit")  # recorded without the stem, corners as (B, N, C)
    # A published block that ends a stage is recorded as it leaves the block, before downsampling.
    blocks = [value for key, value in seen.items() if key == "stem" or key.endswith(".mlp")]
    recorded = ["stem", *(f"block{i}" for i in range(len(blocks) - 1))]
    for key, grid in list(zip(recorded, blocks, strict=True))[binaryvit:]:
        np.testing.assert_allclose(grid.mean(dim=(1, 2)), expected[f"{key}.mean"], rtol=1e-8, atol=1e-9, err_msg=key)
        corner = grid.flatten(1, 2)[:, :9, :8] if binaryvit else grid.permute(0, 3, 1, 2)[:, :8, :3, :3]
        np.testing.assert_allclose(corner, expected[f"{key}.corner"], rtol=1e-8, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("case", golden.CASES)
def test_published_names_and_shapes_come_back_exactly(case: str) -> None:
    published = golden.weights(case)
    back = to_published(from_published(published))
    assert back.keys() == published.keys()
    for key, value in published.items():
        np.testing.assert_array_equal(back[key].numpy(), value, err_msg=key, strict=True)
