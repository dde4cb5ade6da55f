"""The fused layers of a training step compute what the layers do as they are written, and so do their gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bhvit
from bhvit.models import BHViT
from bhvit.models.attention_quantizers import DecomposedAttention
from bhvit.models.blocks import Mlp
from bhvit.models.fused import attention as fused_attention
from bhvit.models.fused import grids as fused_grids
from bhvit.models.fused import kernels as native
from bhvit.models.fused import layers as fused
from bhvit.models.fused import parts as fused_parts
from bhvit.models.fused.gradients import by_name
from bhvit.models.layers import BatchNorm, RPReLU
from bhvit.models.quant_config import QuantConfig
from bhvit.models.quantizers import linear_weight

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("bhvit_nano", {}),
    ("bhvit_nano", {"weight_bits": 32, "activation_bits": 32}),
    ("bhvit_nano", {"weight_bits": 32}),
    ("bhvit_nano", {"activation_bits": 32}),
    ("bhvit_nano", {"recu": True, "shifts": ()}),
    ("bhvit_tiny", {"img_size": 64}),
    ("bhvit_small_fp", {"img_size": (32, 96)}),
    ("binaryvit_small", {"img_size": 64}),
]


def _step(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and buffers after one step; the model itself is left alone."""
    model = copy.deepcopy(model)
    logits = model(images)
    # Weights that differ from image to image: of a batch norm's outputs the sum over a batch is a constant.
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights.to(logits)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients, dict(model.named_buffers())


def _varied(name: str, **overrides: Any) -> BHViT:
    torch.manual_seed(0)
    model = bhvit.create_model(name, num_classes=10, **overrides).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms, scales, shifts, slopes: nothing is left at zero or one
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


@pytest.mark.parametrize(
    "steps_before", [0, pytest.param(1, marks=pytest.mark.long)]
)  # the first sets the attention's quantisers
@pytest.mark.parametrize(("name", "overrides"), MODELS, ids=[f"{name}-{'-'.join(s)}" for name, s in MODELS])
def test_a_fused_step_is_the_plain_step_in_float64(
    name: str, overrides: dict[str, Any], steps_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _varied(name, **overrides)
    images = torch.randn(3, 3, *model.spec.img_size, dtype=torch.float64)
    for _ in range(steps_before):
        model(images)
    calls = _count_calls(monkeypatch)
    logits, gradients, buffers = _step(model, images)
    assert calls, "nothing was fused"
    monkeypatch.setattr(native, "KERNELS", {})
    plain_logits, plain_gradients, plain_buffers = _step(model, images)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-11, atol=1e-11)
    assert gradients.keys() == plain_gradients.keys()
    gone = [name for name, gradient in gradients.items() if gradient.abs().max() < 1e-8]
    assert len(gone) < len(gradients) / 4, f"gradients that compare nothing: {gone}"
    for name in gradients:
        torch.testing.assert_close(gradients[name], plain_gradients[name], rtol=1e-9, atol=1e-11, msg=name)
    for name in buffers:
        torch.testing.assert_close(buffers[name], plain_buffers[name], rtol=1e-11, atol=1e-11, msg=name)


@pytest.mark.parametrize("isa", list(native.BY_ISA))
def test_every_instruction_set_computes_the_same(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _varied("bhvit_nano")
    images = torch.randn(2, 3, *model.spec.img_size, dtype=torch.float64)
    model(images)
    _, expected, _ = _step(model, images)
    monkeypatch.setattr(native, "KERNELS", native.BY_ISA[isa])
    _, gradients, _ = _step(model, images)
    for name in gradients:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-9, atol=1e-11, msg=name)


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    h, residual = torch.randn(1000, 256), torch.randn(1000, 64)
    norm, activation = BatchNorm(256), bhvit.models.layers.RPReLU(256)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        x = h.clone().requires_grad_()
        y = fused.unit(x, residual, norm, activation)
        norm.zero_grad()
        (y * h).sum().backward()
        assert x.grad is not None
        assert norm.weight.grad is not None
        results.append((y.detach(), x.grad, norm.weight.grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("rows", [2, 127, 128, 129, 700])
@pytest.mark.parametrize(("channels", "width"), [(32, 32), (96, 96), (2048, 512), (64, 32), (1536, 768), (40, 40)])
def test_units_of_odd_shapes(rows: int, channels: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(rows, channels, dtype=torch.float64, generator=generator, requires_grad=True)
    residual = torch.randn(rows, width, dtype=torch.float64, generator=generator, requires_grad=True)
    norm, activation = BatchNorm(channels).double(), bhvit.models.layers.RPReLU(channels).double()
    for parameter in (*norm.parameters(), *activation.parameters()):
        nn.init.normal_(parameter)
    plain = activation(
        nn.functional.batch_norm(h, None, None, norm.weight, norm.bias, True) + residual.repeat(1, channels // width)
    )
    weights = torch.randn_like(plain)
    parameters = (h, residual, *norm.parameters(), *activation.parameters())
    expected = torch.autograd.grad((plain * weights).sum(), parameters)
    found = fused.unit(h, residual, norm, activation)
    torch.testing.assert_close(found, plain)
    for a, b in zip(torch.autograd.grad((found * weights).sum(), parameters), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rows", [2, 5, 129])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 16), (96, 48), (2048, 512), (512, 2048), (64, 24), (40, 32)])
def test_products_of_signs_are_those_of_numbers(rows: int, inputs: int, outputs: int) -> None:
    x, move = torch.randn(rows, inputs), torch.randn(inputs)
    x[0, :2] = -move[:2]  # a sum of zero has the sign +1
    latent, norm, usual = torch.randn(outputs, inputs), BatchNorm(outputs), nn.BatchNorm1d(outputs).double()
    weight = fused_parts.Weight.of(latent, latent=True, binary=True)
    product, moments = weight.times(fused_parts.signs_of(x, move, True), norm)
    exact = torch.where(x + move >= 0, 1.0, -1.0).double() @ linear_weight(latent, QuantConfig()).double().T
    torch.testing.assert_close(product.double(), exact, rtol=1e-6, atol=1e-6)
    usual(exact)
    distances = (exact - exact[0]).abs().max().item()  # up to 128 of these are added in float32
    bound = 128 * torch.finfo(torch.float32).eps * distances
    torch.testing.assert_close(moments.mean.double(), exact.mean(0), rtol=0, atol=bound)
    variance = exact.var(0, unbiased=False) + norm.eps
    torch.testing.assert_close(moments.inverse.double() ** -2, variance, rtol=0, atol=2 * bound * distances)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), usual.running_mean, rtol=0, atol=bound)
    torch.testing.assert_close(norm.running_var.double(), usual.running_var, rtol=0, atol=2 * bound * distances)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("channels", "hidden"), [(32, 64), (96, 288), (544, 544), (544, 2176), (608, 1216), (800, 1600), (1088, 1088)]
)
def test_mlps_of_odd_widths(channels: int, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = Mlp(channels, hidden, QuantConfig()).double().train()
    n = torch.randn(2, 3, 3, channels, dtype=torch.float64)

    def step() -> list[Tensor]:
        twin, x = copy.deepcopy(layer), n.clone().requires_grad_()
        out = twin(x)
        (out * n).sum().backward()
        return [out, x.grad, *(p.grad for p in twin.parameters()), *twin.buffers()]

    assert fused.applies(layer, n)
    found, again = step(), step()
    monkeypatch.setattr(native, "KERNELS", {})
    for a, b, c in zip(found, again, step(), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-11)


def test_every_gradient_has_memory_of_its_own() -> None:
    model: Any = bhvit.create_model("bhvit_nano", num_classes=10).train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len({gradient.data_ptr() for gradient in gradients}) == len(gradients)


@pytest.mark.parametrize(("name", "part"), [("norm1", nn.Identity()), ("activation1", nn.ReLU())])
def test_other_parts_in_the_place_of_ours_are_used(name: str, part: nn.Module) -> None:
    model: Any = bhvit.create_model("bhvit_nano", num_classes=10).train()
    mlp = model.stages[0][0].mlp
    setattr(mlp, name, part)
    seen: list[bool] = []
    part.forward = lambda x: (seen.append(True), x)[1]
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert seen == [True]


def test_a_subclass_computes_as_it_says() -> None:
    class Doubled(RPReLU):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model: Any = bhvit.create_model("bhvit_nano", num_classes=10).train()
    mixer = model.stages[0][0].mixer
    assert fused.applies(mixer, torch.randn(2, 4))
    mixer.activations[1] = Doubled(mixer.norm.num_features)
    assert not fused.applies(mixer, torch.randn(2, 4))


def test_a_quantiser_of_another_class_is_used() -> None:
    class Own(DecomposedAttention):
        calls = 0

        def forward(self, probabilities: Tensor) -> Tensor:
            Own.calls += 1
            return super().forward(probabilities)

    model: Any = bhvit.create_model("bhvit_nano", num_classes=3, img_size=16, stages={0: {"mixer": "attention"}})
    model.train()
    attention = model.stages[0][0].mixer.attention
    attention.quantizer = Own(attention.heads)
    for calls in (1, 2):  # in the second step the quantiser has its first values
        model(torch.randn(2, 3, 16, 16))
        assert Own.calls == calls


def test_a_large_mean_does_not_drown_the_variance() -> None:
    x = 1e4 + torch.randn(4096, 32)
    norm = BatchNorm(32)
    exact = (x.double() - x.double().mean(0)) / (x.double().var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(fused.batch_norm(norm, x).double(), exact, rtol=0, atol=1e-2)


def test_weights_that_are_no_numbers_stay_so() -> None:
    h = torch.randn(8, 32)
    h[3, 5] = float("nan")
    activated = fused.unit(h, torch.zeros(8, 32), BatchNorm(32), bhvit.models.layers.RPReLU(32))
    assert activated[:, 5].isnan().all()
    assert activated[:, :5].isfinite().all()


def test_layers_are_computed_as_written_where_something_looks_into_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = bhvit.create_model("bhvit_nano", num_classes=10).train()
    seen: list[str] = []
    mlp = model.stages[0][0].mlp
    mlp.linear1.register_forward_hook(lambda *_: seen.append("linear1"))
    model(torch.randn(2, 3, 32, 32))
    assert seen == ["linear1"]
    assert not fused.applies(mlp, torch.randn(2, 4))
    assert fused.applies(model.stages[0][1].mlp, torch.randn(2, 4))
    assert not fused.applies(model.stages[0][1].mlp.eval(), torch.randn(2, 4))
    norms = model.stages[1][0].mlp
    norms.norm1.eval()  # frozen statistics
    assert not fused.applies(norms, torch.randn(2, 4))
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not fused.applies(model.stages[1][1].mlp, torch.randn(2, 4))
    hook.remove()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused.applies(model.stages[1][1].mlp, torch.randn(2, 4))
    model = bhvit.create_model("bhvit_nano", norm="layer")
    assert not fused.applies(model.stages[0][0].mlp, torch.randn(2, 4))


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    kernels = native.kernels
    monkeypatch.setattr(native, "kernels", lambda x: (calls.append("call"), kernels(x))[1])
    return calls


def test_another_default_device_is_none_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _varied("bhvit_nano").float()
    images = torch.randn(2, 3, *model.spec.img_size)
    _, expected, _ = _step(model, images)
    with torch.device("meta"):
        weights = torch.randn(2, 10, device="cpu", generator=torch.Generator("cpu").manual_seed(1))
        (model(images) * weights).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.get(name), msg=name)


def test_tensors_that_do_not_fit_are_refused_before_a_kernel_reads_them() -> None:
    model: Any = bhvit.create_model("bhvit_nano", num_classes=10).train()
    images = torch.randn(2, 3, 32, 32)
    activation = model.stages[0][0].mlp.activation1
    model.stages[0][0].mlp.activation1 = RPReLU(1)
    with pytest.raises(ValueError, match=r"shift_in has shape \(1,\), not \(256,\)"):
        model(images)
    model.stages[0][0].mlp.activation1 = activation
    model(images)
    h, norm, rprelu = torch.randn(4, 64), BatchNorm(64), RPReLU(64)
    with pytest.raises(ValueError, match=r"residual has shape \(3, 64\), not \(4, 64\)"):
        fused.unit(h, torch.randn(3, 64), norm, rprelu)
    with pytest.raises(ValueError, match="cannot be tiled"):
        fused.unit(h, torch.randn(4, 48), norm, rprelu)
    with pytest.raises(TypeError, match="residual is not of dtype float32"):
        fused.unit(h, torch.randn(4, 64, dtype=torch.float64), norm, rprelu)
    with pytest.raises(TypeError, match="learnable_bias is not of dtype float32"):
        fused.signs(h, torch.randn(64, dtype=torch.float64))
    q, k = torch.randn(2, 4, 64), torch.randn(2, 5, 64)
    with pytest.raises(ValueError, match="do not go with 3 heads"):
        fused_attention.attention(q, k, k, DecomposedAttention(3))
    with pytest.raises(ValueError, match=r"v has shape \(2, 4, 64\), not \(2, 5, 64\)"):
        fused_attention.attention(q, k, q, DecomposedAttention(2))
    n = torch.randn(1, 2, 2, 8)
    with pytest.raises(ValueError, match=r"base has shape \(1, 2, 2, 8\), not \(1, 3, 2, 8\)"):
        fused_grids.cross(n, torch.randn(1, 3, 2, 8), torch.randn(9, 8), torch.randn(8), True)
    with pytest.raises(ValueError, match=r"taps has shape \(9, 4\), not \(9, 8\)"):
        fused_grids.cross(n, n, torch.randn(9, 4), torch.randn(8), True)


def test_gradients_go_to_arguments_by_name() -> None:
    def forward(ctx: Any, x: Tensor, flag: bool, y: Tensor, *more: Tensor) -> Tensor:
        raise NotImplementedError

    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    backward = by_name(forward)(lambda ctx, grad: {"more": (two, three), "x": one})
    assert backward(None, one) == (one, None, None, two, three)
    with pytest.raises(KeyError, match="no argument z among flag, more, x, y"):
        by_name(forward)(lambda ctx, grad: {"z": one})(None, one)
