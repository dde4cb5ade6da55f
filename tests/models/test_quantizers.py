"""Values and gradients of the quantisers, derived by hand; `test_training_mode` computes them at length."""

import math

import torch

from bhvit.models.attention_quantizers import DecomposedAttention
from bhvit.models.quantizers import binarize_weight, centre, sign, weight_scale


def test_sign_gives_plus_one_at_zero_and_the_bi_real_gradient() -> None:
    x = torch.tensor([-2.0, -1.0, -0.75, -0.0, 0.0, 0.25, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    y = sign(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    y.backward(torch.full_like(y, 3.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 3 * (2 - 1.5), 6, 6, 3 * (2 - 0.5), 0, 0]


def test_weights_become_scale_times_sign_of_the_centred_weight() -> None:
    weight = torch.tensor([[1.0, 2.0, 6.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    assert centre(weight).tolist() == [[-2, -1, 3], [-1, 0, 1]]
    assert weight_scale(weight).flatten().tolist() == [3, 2 / 3]
    assert binarize_weight(weight).tolist() == [[-3, -3, 3], [-2 / 3, 2 / 3, 2 / 3]]


def test_weight_gradients_pass_inside_the_window_and_through_the_centring() -> None:
    weight = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64, requires_grad=True)
    binarize_weight(weight).backward(torch.tensor([[10.0, 4.0, 7.0]], dtype=torch.float64))
    # Only the second lies in [-1, 1] after centring: (0, 4, 0), less its mean 4/3.
    torch.testing.assert_close(weight.grad, torch.tensor([[-4 / 3, 4 - 4 / 3, -4 / 3]], dtype=torch.float64))


def test_attention_levels_are_clamped_integers_times_the_step() -> None:
    quantizer = DecomposedAttention(1).double().eval()
    with torch.no_grad():
        quantizer.step.fill_(0.5)
        quantizer.offset.fill_(0.25)
    probabilities = torch.tensor([[[[0.0, 0.05, 0.2, 0.4], [0.6, 1.0, 0.3, 0.1]]]], dtype=torch.float64)
    # 3P/0.5 + 0.25 = .25 .55 1.45 2.65 3.85 6.25 2.05 .85
    assert quantizer(probabilities).flatten().tolist() == [0, 0.5, 0.5, 1.5, 1.5, 1.5, 1.0, 0.5]


def test_attention_quantiser_gradients_are_those_of_lsq() -> None:
    quantizer = DecomposedAttention(1).double().eval()
    with torch.no_grad():
        quantizer.step.fill_(0.5)
        quantizer.offset.fill_(0.25)
    probabilities = torch.tensor([[[[0.05, 0.2, 0.3, 0.6]]]], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([[[[1.0, 2.0, 3.0, 5.0]]]], dtype=torch.float64)
    quantizer(probabilities).backward(upstream)
    # Levels 1, 1, 2, and 4 clamped to 3: dP = 3g inside, 0 where clamped.
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad.flatten(), torch.tensor([3.0, 6.0, 9.0, 0.0], dtype=torch.float64))
    scale = 1 / math.sqrt(3 * 4)
    # d step = sum g (level - inside * 3P/step), d offset = sum over inside of g * step, both scaled.
    expected_step = 1 * (1 - 0.3) + 2 * (1 - 1.2) + 3 * (2 - 1.8) + 5 * 3
    assert quantizer.step.grad is not None
    assert quantizer.offset.grad is not None
    torch.testing.assert_close(quantizer.step.grad.item(), scale * expected_step)
    torch.testing.assert_close(quantizer.offset.grad.item(), scale * 0.5 * (1 + 2 + 3))
