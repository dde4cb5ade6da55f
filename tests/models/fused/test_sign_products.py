"""Products of float32 numbers with signs, by tables where the processor has permutations, against float64.

All with the kernels of every instruction set that this machine can run.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bhvit.models.fused import kernels as native
from bhvit.models.fused.grids import add_conv_input, conv, conv_weights
from bhvit.models.fused.parts import Weight, are_words, signs_of
from bhvit.models.layers import BatchNorm
from bhvit.models.quant_config import QuantConfig
from bhvit.spec.mixers import MIXER_GROUPS
from bhvit.spec.model import DILATIONS

pytestmark = pytest.mark.skipif(not native.KERNELS, reason="built without the kernels of a training step")


@pytest.fixture(autouse=True, params=list(native.BY_ISA))
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "KERNELS", native.BY_ISA[request.param])


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _signs(*shape: int) -> Tensor:
    return torch.where(_random(*shape) >= 0, 1.0, -1.0)


def _close(found: Tensor, exact: Tensor, terms: int) -> None:
    """What `terms` float32 additions of standard normal numbers may be off."""
    assert found.dtype == torch.float32
    assert (found.double() - exact).abs().max() <= 5 * terms * torch.finfo(torch.float32).eps


SHAPES = [(1, 16, 32), (5, 64, 64), (33, 48, 160), (196, 64, 16), (131, 32, 80), (257, 256, 96)]


@pytest.mark.parametrize(("tokens", "outputs", "inputs"), SHAPES)
def test_gradient_of_inputs(tokens: int, outputs: int, inputs: int, threads: int) -> None:
    rows = _random(tokens, outputs)
    binary = _random(outputs, 1).abs() * _signs(outputs, inputs)
    weight = Weight.of(binary, latent=False, binary=True)
    assert (weight.words is None) == (inputs % 32 > 0)
    assert torch.equal(weight.as_numbers(), binary)
    into = torch.full((tokens, inputs), torch.nan)
    assert weight.input_gradient(rows, into) is into
    _close(into, rows.double() @ binary.double(), outputs)


@pytest.mark.parametrize(("tokens", "outputs", "inputs"), SHAPES)
def test_gradient_of_weights(tokens: int, outputs: int, inputs: int, threads: int) -> None:
    rows, x, move = _random(tokens, outputs), _random(tokens, inputs), _random(inputs)
    x[0, 0], move[0] = 1.0, -1.0  # the sign of 0 is +1
    signs, weight = signs_of(x, move, True), Weight.of(_signs(outputs, inputs), latent=False, binary=True)
    assert are_words(signs) == (inputs % 32 == 0)
    exact = rows.double().T @ torch.where(x + move >= 0, 1.0, -1.0).double()
    _close(weight.gradient(rows, signs), exact, tokens)


def test_rows_that_are_a_view() -> None:
    rows, signs = _random(64, 40).T, _signs(64, 32)
    weight, out = Weight.of(signs, latent=False, binary=True), torch.empty(40, 32)
    _close(weight.input_gradient(rows, out), rows.double() @ signs.double(), 64)


GRIDS = [(2, 7, 9, 64), (1, 1, 1, 64), (3, 4, 3, 128), (1, 14, 14, 192), (2, 33, 2, 256)]


@pytest.mark.parametrize("dilation", DILATIONS)
@pytest.mark.parametrize("shape", GRIDS)
def test_convolution_in_groups(shape: tuple[int, ...], dilation: int, threads: int) -> None:
    channels, each = shape[3], shape[3] // MIXER_GROUPS
    weight = _random(channels, 1, 1, 1).abs() * _signs(channels, each, 3, 3)
    x, grad = _signs(*shape), _random(*shape)
    exact_x = x.double().permute(0, 3, 1, 2).requires_grad_()
    exact_weight = weight.double().requires_grad_()
    exact = F.conv2d(exact_x, exact_weight, padding=dilation, dilation=dilation, groups=MIXER_GROUPS)
    exact.backward(grad.double().permute(0, 3, 1, 2))
    assert exact_x.grad is not None
    assert exact_weight.grad is not None

    out = conv(x, weight, dilation, QuantConfig())
    whole = exact.detach().permute(0, 2, 3, 1) / weight[:, 0, 0, 0].abs().double()
    assert torch.equal(out, whole.round().float() * weight[:, 0, 0, 0].abs())
    dx = _random(*shape)
    expected = dx.double() + exact_x.grad.permute(0, 2, 3, 1)
    add_conv_input(grad, weight, dilation, QuantConfig(), dx)
    _close(dx, expected, 9 * each)
    _close(conv_weights(x, grad, weight, dilation, QuantConfig()), exact_weight.grad, shape[0] * shape[1] * shape[2])


def test_threads_change_nothing() -> None:
    rows, weight = _random(301, 64), Weight.of(_random(64, 96), latent=True, binary=True)
    x, move = _random(301, 96), _random(96)
    before = torch.get_num_threads()
    try:
        seen = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            signs, norm = signs_of(x, move, True), BatchNorm(64)
            product, moments = weight.times(signs, norm)
            gradients = weight.input_gradient(rows, torch.empty(301, 96)), weight.gradient(rows, signs)
            seen.append((product, *moments, norm.running_var, *gradients))
    finally:
        torch.set_num_threads(before)
    assert all(
        a is not None and b is not None and torch.equal(a, b)
        for other in seen[1:]
        for a, b in zip(seen[0], other, strict=True)
    )
