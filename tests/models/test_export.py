"""Models through PyTorch's own tools: exported for any batch, checkpointed, loaded and copied in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import bhvit
from bhvit.models.attention_quantizers import DecomposedAttention
from bhvit.spec.model import StageSpec
from helpers.randomise import randomise

STAGES = (
    StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),
    StageSpec(depth=1, channels=64, hidden=64, mixer="attention"),
)


def _model(**settings: Any) -> bhvit.BHViT:
    torch.manual_seed(0)
    return bhvit.create_model("bhvit_nano", num_classes=3, img_size=16, stages=STAGES, **settings)


def _quantizer(model: bhvit.BHViT) -> DecomposedAttention:
    (found,) = (module for module in model.modules() if isinstance(module, DecomposedAttention))
    return found


@pytest.mark.parametrize(
    "attention", ["decomposition", *(pytest.param(name, marks=pytest.mark.long) for name in ("gsb", "one_bit"))]
)
def test_an_exported_model_takes_any_batch(attention: str) -> None:
    model = randomise(_model(attention=attention))
    free = {"images": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=free).module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 16, 16)
        assert torch.equal(exported(images), model(images))


def _gradients(model: bhvit.BHViT, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
    (model(images) * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    return gradients


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_checkpointing_changes_no_gradient_and_no_statistic(
    fused: bool, drop_path: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr("bhvit.models.fused.kernels.KERNELS", {})
    model = _model(drop_path=drop_path).train()
    again = copy.deepcopy(model)
    again.set_grad_checkpointing()
    weights = torch.randn(4, 3)
    for _ in range(2):  # the first step sets the quantiser
        images = torch.randn(4, 3, 16, 16)
        expected: list[dict[str, torch.Tensor]] = []
        found: list[dict[str, torch.Tensor]] = []
        for one, into in ((model, expected), (again, found)):
            torch.manual_seed(1)
            one.zero_grad()
            into.append(_gradients(one, images, weights))
        assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, again.get_buffer(name)), name
    again.set_grad_checkpointing(False)
    assert not again.grad_checkpointing


@pytest.mark.parametrize("fused", [True, False])
def test_the_first_step_can_be_checkpointed_from_outside(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr("bhvit.models.fused.kernels.KERNELS", {})
    model = _model().train()
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    features: Any = checkpoint(model.forward_features, images, use_reentrant=False)
    features.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert _quantizer(model).initialised == 1


def test_whether_a_quantiser_has_its_values_follows_loading_copies_and_writes() -> None:
    quantizer = DecomposedAttention(2).train()
    probabilities = torch.randn(3, 2, 4, 4).softmax(-1)
    assert quantizer.awaits_first_batch()
    fresh, assigned = copy.deepcopy(quantizer), DecomposedAttention(2)
    quantizer(probabilities)
    assert not quantizer.awaits_first_batch()
    assert not copy.deepcopy(quantizer).awaits_first_batch()
    assert not copy.deepcopy(quantizer).double().awaits_first_batch()
    assert fresh.awaits_first_batch()
    fresh.load_state_dict(quantizer.state_dict())
    assert not fresh.awaits_first_batch()
    fresh.initialised.zero_()
    assert fresh.awaits_first_batch()
    assigned.load_state_dict({name: tensor.clone() for name, tensor in quantizer.state_dict().items()}, assign=True)
    assert not assigned.awaits_first_batch()
    empty = DecomposedAttention(2).to("meta").to_empty(device="cpu")
    empty.load_state_dict(quantizer.state_dict())
    assert not empty.awaits_first_batch()
    assert not DecomposedAttention(2).eval().awaits_first_batch()


def test_constants_follow_the_weights_to_another_type_or_memory() -> None:
    model = randomise(_model())
    images = torch.randn(2, 3, 16, 16)
    expected = model(images)
    with torch.device("meta"):
        other = _model()
    other.load_state_dict(model.state_dict(), assign=True)  # not moved: weights are put in one by one
    assert torch.equal(other.eval()(images), expected)
    torch.testing.assert_close(copy.deepcopy(model).double()(images.double()).float(), expected, rtol=1e-4, atol=1e-4)
    with torch.device("meta"), torch.inference_mode():
        late = _model()
    late.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    with torch.inference_mode():
        late.eval()(images)
    late.train()(images).sum().backward()  # what inference made may not be in the way


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of dynamo's own looking at graphs' inputs
@pytest.mark.long
def test_training_compiles_into_whole_graphs_for_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiled layers are never fused, and fused ones round differently, which flips signs.
    monkeypatch.setattr("bhvit.models.fused.kernels.KERNELS", {})
    model = _model().train()
    plain = copy.deepcopy(model)
    # A graph that breaks within a block is compiled piece by piece for grids of any edge, which Inductor cannot do.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (4, 4, 3, 5):
        images, weights = torch.randn(batch, 3, 16, 16), torch.randn(batch, 3)
        for one in (compiled, plain):
            (one(images) * weights).sum().backward()
        torch.testing.assert_close(_quantizer(model).step, _quantizer(plain).step)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=f"{{}} of {name}".format)
    assert not _quantizer(model).awaits_first_batch()
