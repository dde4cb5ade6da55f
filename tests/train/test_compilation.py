"""Compiled blocks, or a clean way on without them."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

import bhvit
from bhvit.train import compilation


def test_where_compiling_fails_the_model_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(module: torch.nn.Module, **_: object) -> None:
        raise RuntimeError("no C++ compiler here\nmore")

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    model = bhvit.create_model("bhvit_nano", num_classes=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compilation.compile_blocks(model, 2, nullcontext(), quiet=False)
    assert capsys.readouterr().err.splitlines()[1] == (
        "warning: the blocks cannot be compiled here, training runs without: no C++ compiler here"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(torch.randn(2, 3, 32, 32)).sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of dynamo's own looking at graphs' inputs
@pytest.mark.long
def test_blocks_are_compiled_for_training_and_not_for_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(1)
        return graph.forward

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **kw: original(self, backend=backend, **kw))
    # Fused layers round differently, which flips signs; compiled blocks never use them.
    monkeypatch.setattr("bhvit.models.fused.layers.applies", lambda *_: False)
    torch.manual_seed(0)
    model = bhvit.create_model("bhvit_nano", num_classes=2)
    plain = copy.deepcopy(model)
    compilation.compile_blocks(model, 4, nullcontext(), quiet=True)
    assert graphs, "nothing was compiled"
    done = len(graphs)
    images, weights = torch.randn(4, 3, 32, 32), torch.randn(4, 2)
    for trained in (model, plain):
        (trained.train()(images) * weights).sum().backward()
    assert len(graphs) == done, "the rehearsal's graphs were not used again"
    with compilation.as_they_are():
        compiled, expected = model.eval()(images), plain.eval()(images)
    assert len(graphs) == done, "evaluation was compiled"
    torch.testing.assert_close(compiled, expected)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None
        assert theirs.grad.abs().sum() > 0, name
        torch.testing.assert_close(ours.grad, theirs.grad, msg=f"{{}} of {name}".format)


def test_an_old_pytorch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.compiler, "set_stance")
    with pytest.raises(bhvit.UserError, match=r"needs PyTorch 2\.6"):
        compilation.check_torch_compiles()
