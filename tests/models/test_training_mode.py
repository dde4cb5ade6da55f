"""What happens in training mode alone, against float64 computations in NumPy that share nothing with the models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bhvit.errors import UserError
from bhvit.models import create_model, regularisation_loss
from bhvit.models.attention_quantizers import DecomposedAttention, GroupSuperpositionAttention, OneBitAttention
from bhvit.models.layers import BatchNorm
from bhvit.models.quantizers import binarize_weight

Array = npt.NDArray[np.float64]
HEADS = 3


def softmax_rows(seed: int, spread: float) -> Array:
    """Probabilities (2, 4, HEADS, 5, 6): batch, windows, heads, queries, keys."""
    scores = np.random.default_rng(seed).normal(0, spread, (2, 4, HEADS, 5, 6))
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def through(module: torch.nn.Module, p: Array, g: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Output, gradient of P and gradients of the parameters, for the incoming gradient g."""
    x = torch.tensor(p, requires_grad=True)
    y = module(x)
    y.backward(torch.tensor(g))
    assert x.grad is not None
    learned = {name: np.asarray(parameter.grad) for name, parameter in module.named_parameters()}
    return y.detach().numpy(), x.grad.numpy(), learned


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


# Scales are sums of few powers of two: the masks are float32, as published, and must not round them.
@pytest.mark.parametrize(
    ("scale", "scale2", "scale3", "spread"),
    [
        (1.0, 1.0, 1.0, 0.2),
        (0.25, 0.75, 1.5, 1.0),
        (0.125, 2.0, 0.5, 3.0),
        (0.03125, 1.25, 3.0, 0.5),
    ],
)
def test_gsb_and_its_backward_which_is_no_derivative(scale: float, scale2: float, scale3: float, spread: float) -> None:
    p = softmax_rows(0, spread)
    g = np.random.default_rng(1).normal(size=p.shape)
    quantizer = GroupSuperpositionAttention().double()
    for parameter, value in zip(quantizer.parameters(), (scale, scale2, scale3), strict=True):
        torch.nn.init.constant_(parameter, value)
    found, d_p, learned = through(quantizer, p, g)

    q = p / scale
    top = q.max(-1, keepdims=True)
    t2 = np.where(q > 0.9 * top, 1.0, 0.0)
    t1 = np.where(q > 0.7 * top, 1.0, 0.0) - t2
    t0 = np.clip(np.rint(q), 0, 1) - (t1 + t2)
    levels = t0 + scale2 * t1 + scale3 * t2
    w = np.where((q >= 0) & (q <= 1), 1.0, 0.0)
    if scale == 1.0:
        assert (t0 == -1).any()  # small probabilities that are large in their row
    close(found, scale * levels)
    close(d_p, scale * levels * g)
    close(learned["scale"], (levels * (1 - w * q) * g).sum())
    close(learned["scale2"], (scale * t1 * g).sum())
    close(learned["scale3"], (scale * t2 * g).sum())


def test_gsb_starts_and_stays_above_its_least_scale() -> None:
    quantizer = GroupSuperpositionAttention().double()
    assert [round(parameter.item(), 9) for parameter in quantizer.parameters()] == [0.005, 1, 1]
    for parameter in quantizer.parameters():
        torch.nn.init.constant_(parameter, -1.0)
    # Rows of (0.6, 0.4): q is 60000 and 40000, T2 marks the first alone, T1 none (0.4 < 0.7 * 0.6), and
    # T0 is 1 - 1 and 1 - 0. All three scales are 1e-5.
    p = torch.tensor([[[[0.6, 0.4]]]], dtype=torch.float64)
    close(quantizer(p).detach().flatten(), np.array([1e-5 * np.float32(1e-5), 1e-5], np.float64))


@pytest.mark.parametrize("scale", [0.005, 0.125, 0.25, 0.7])
def test_one_bit_attention_and_its_backward(scale: float) -> None:
    p = softmax_rows(2, 1.5)
    g = np.random.default_rng(3).normal(size=p.shape)
    quantizer = OneBitAttention().double()
    assert quantizer.scale.item() == pytest.approx(0.005)
    torch.nn.init.constant_(quantizer.scale, scale)
    found, d_p, learned = through(quantizer, p, g)
    q = p / scale
    w = np.where((q >= 0) & (q <= 1), 1.0, 0.0)
    close(found, scale * np.clip(np.rint(q), 0, 1))
    close(d_p, w * g)
    close(learned["scale"], ((w * (np.rint(q) - q) + np.where(q > 1, 1.0, 0.0)) * g).sum())


def test_step_and_offset_of_every_head_learn_with_the_gradient_scale_of_lsq() -> None:
    p = softmax_rows(4, 1.0)
    g = np.random.default_rng(5).normal(size=p.shape)
    quantizer = DecomposedAttention(HEADS).double().eval()
    steps, offsets = np.array([0.3, 0.5, 0.9]), np.array([0.2, -0.4, 0.05])
    with torch.no_grad():
        quantizer.step.copy_(torch.tensor(steps))
        quantizer.offset.copy_(torch.tensor(offsets))
    found, d_p, learned = through(quantizer, p, g)

    scale = HEADS / math.sqrt(3 * p.size)
    for head in range(HEADS):
        ph, gh = p[:, :, head], g[:, :, head]
        step = steps[head]
        rounded = np.rint(3 * ph / step + offsets[head])
        level = np.clip(rounded, 0, 3)
        inside = np.where((rounded > 0) & (rounded < 3), 1.0, 0.0)  # the ends count as clamped
        close(found[:, :, head], level * step)
        close(d_p[:, :, head], 3 * inside * gh)
        close(learned["step"][head], scale * (gh * (level - inside * 3 * ph / step)).sum())
        close(learned["offset"][head], scale * (gh * inside * step).sum())
        assert 0 < inside.mean() < 1


def test_the_first_training_batch_sets_step_and_offset_and_no_other_does() -> None:
    first, second = (torch.tensor(softmax_rows(seed, 1.0)) for seed in (6, 7))
    quantizer = DecomposedAttention(HEADS).double()
    torch.nn.init.constant_(quantizer.offset, 0.5)
    quantizer.eval()(second)
    assert quantizer.step.tolist() == [1] * HEADS
    output = quantizer.train()(first).detach()
    steps = [2 * (3 * first[:, :, head]).mean().item() / math.sqrt(3) for head in range(HEADS)]
    offsets = [0.9 * 0.5 + 0.1 * 3 * first[:, :, head].min().item() for head in range(HEADS)]
    close(quantizer.step.detach(), steps)
    close(quantizer.offset.detach(), offsets)
    # The batch that sets them is quantised with them.
    x = 3 * first.numpy() / np.reshape(steps, (-1, 1, 1)) + np.reshape(offsets, (-1, 1, 1))
    close(output, np.clip(np.rint(x), 0, 3) * np.reshape(steps, (-1, 1, 1)))

    quantizer(second)
    quantizer.eval()(second)
    restored = DecomposedAttention(HEADS).double().train()
    restored.load_state_dict(quantizer.state_dict())  # as a run that is resumed or fine-tuned
    restored(second)
    for one in (quantizer, restored):
        close(one.step.detach(), steps)
        close(one.offset.detach(), offsets)


def test_every_attention_of_a_model_is_initialised_by_its_first_training_batch() -> None:
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=2)
    quantizers = [module for module in model.modules() if isinstance(module, DecomposedAttention)]
    assert len(quantizers) == 4
    model.eval()(torch.randn(2, 3, 32, 32))
    assert all(quantizer.initialised == 0 for quantizer in quantizers)
    model.train()(torch.randn(2, 3, 32, 32))
    assert all(quantizer.initialised == 1 for quantizer in quantizers)
    before = [quantizer.step.detach().clone() for quantizer in quantizers]
    model(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(old, quantizer.step) for old, quantizer in zip(before, quantizers, strict=True))


@pytest.mark.parametrize("shape", [(4, 3, 5, 8), (2, 4, 6, 8)])
def test_batch_statistics_are_over_everything_but_channels(shape: tuple[int, ...]) -> None:
    """A grid (B, H, W, C), and the tokens of windows (B, nW, T, C)."""
    rng = np.random.default_rng(8)
    norm = BatchNorm(shape[-1]).double()
    gain, bias = rng.normal(size=(2, shape[-1]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(gain))
        norm.bias.copy_(torch.tensor(bias))
    mean, variance = np.zeros(shape[-1]), np.ones(shape[-1])
    for number in range(1, 4):
        x = rng.normal(3, 2, shape)
        rows = x.reshape(-1, shape[-1])
        close(
            norm.train()(torch.tensor(x)).detach(),
            (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * gain + bias,  # biased within the batch,
        )
        mean = 0.9 * mean + 0.1 * rows.mean(0)
        variance = 0.9 * variance + 0.1 * rows.var(0, ddof=1)  # unbiased in the running estimate
        assert norm.num_batches_tracked == number
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = rng.normal(size=shape)
    close(norm.eval()(torch.tensor(x)).detach(), (x - mean) / np.sqrt(variance + 1e-5) * gain + bias)
    close(norm.running_mean, mean)
    close(norm.running_var, variance)


def test_recu_changes_gradients_and_no_value() -> None:
    rng = np.random.default_rng(9)
    weight, g = rng.normal(0.1, 0.3, (4, 32)), rng.normal(size=(4, 32))
    latent = torch.tensor(weight, requires_grad=True)
    binary = binarize_weight(latent, recu=True)
    assert torch.equal(binary, binarize_weight(latent))
    binary.backward(torch.tensor(g))

    centred = weight - weight.mean(1, keepdims=True)
    deviation = np.sqrt(centred.var(1, ddof=1, keepdims=True) + 1e-5)
    divided = centred / (deviation / (2 * math.sqrt(2)))
    window = -np.abs(divided).mean() * math.log(2 - 2 * 0.92)
    h = np.where(np.abs(divided) <= window, g, 0.0)
    assert 0 < (h == 0).mean() < 0.5
    # d/d centred of centred / deviation, whose deviation depends on the centred weights too.
    along = (h * centred).sum(1, keepdims=True) * centred / ((centred.shape[1] - 1) * deviation**2)
    expected = 2 * math.sqrt(2) / deviation * (h - along)
    assert latent.grad is not None
    close(latent.grad, expected - expected.mean(1, keepdims=True))


BLOCK = {
    "conv": ("mixer.convs.0", "mixer.convs.1", "mixer.convs.2"),
    "attention": (
        "mixer.attention.query.linear",
        "mixer.attention.key.linear",
        "mixer.attention.value.linear",
        "mixer.output.linear",
    ),
}
MLP = ("mlp.linear1", "mlp.linear2")


def regularised(depths: tuple[tuple[str, int], ...]) -> set[str]:
    return {
        f"stages.{stage}.{block}.{layer}.weight"
        for stage, (mixer, depth) in enumerate(depths)
        for block in range(depth)
        for layer in (*BLOCK.get(mixer, ()), *MLP)
    }


REDUCTIONS = {f"stages.{n}.{block}.mixer.reduction.linear.weight" for n in (0, 1) for block in range(3 + n)}
NANO = (("conv", 2), ("attention", 2), ("attention", 2))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("bhvit_nano", {}, regularised(NANO)),
        ("bhvit_tiny", {"img_size": 32}, regularised((("conv", 2), ("conv", 2), ("attention", 6), ("attention", 2)))),
        ("bhvit_nano", {"downsample": "float"}, regularised(NANO)),
        ("bhvit_nano", {"stages.0.mixer": "pooling"}, regularised((("pooling", 2), *NANO[1:]))),
        # Nothing draws full-precision weights to -1 and +1; binary ones stay so with full-precision activations.
        ("bhvit_nano", {"stages.1.weight_bits": 32}, {n for n in regularised(NANO) if not n.startswith("stages.1.")}),
        ("bhvit_nano", {"stages.1.activation_bits": 32}, regularised(NANO)),
        (
            "binaryvit_small",
            {"img_size": 32},
            regularised(tuple(("attention", depth) for depth in (3, 4, 8, 4))) | REDUCTIONS,
        ),
    ],
)
def test_regularisation_is_the_mean_over_exactly_these_tensors(
    name: str, settings: dict[str, Any], expected: set[str]
) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, **settings).double()
    loss = regularisation_loss(model)
    loss.backward()
    weights = dict(model.named_parameters())
    assert {key for key, parameter in weights.items() if parameter.grad is not None} == expected
    terms = [np.abs(np.abs(weights[key].detach().numpy()) - 1).mean() for key in sorted(expected)]
    close(loss.item(), np.mean(terms))
    for key in expected:  # d/dw of mean over layers of mean ||w| - 1|, where no |w| is 0 or 1
        w = weights[key].detach().numpy()
        assert weights[key].grad is not None
        close(weights[key].grad, np.sign(w) * np.sign(np.abs(w) - 1) / w.size / len(expected))


def test_regularisation_without_binary_weights_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to regularise"):
        regularisation_loss(create_model("bhvit_nano", weight_bits=32))
