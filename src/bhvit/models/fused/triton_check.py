"""Whether the Triton kernels compute on a device what PyTorch does, on a few small tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...format.arithmetic import TAPS
from . import gpu

TOLERANCE = 1e-3


def check(device: torch.device) -> None:
    """Raises RuntimeError if a kernel answers otherwise than PyTorch, or what the compiler raises."""
    # Not from the global generator, which training has seeded.
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    with torch.enable_grad():
        _check_unit(draw, device)
        _check_cross(draw)
        _check_signs(draw)
        _check_levels(draw)


def _compare(name: str, found: Tensor, expected: Tensor, tensors: list[Tensor]) -> None:
    grad = torch.linspace(-1, 1, found.numel(), device=found.device).view(found.shape)
    pairs = zip(
        (found, *torch.autograd.grad(found, tensors, grad)), (expected, *torch.autograd.grad(expected, tensors, grad))
    )
    for ours, theirs in pairs:
        difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
        if not difference < TOLERANCE:
            raise RuntimeError(
                f"the kernel {name} differs from PyTorch by {difference.item():.2g} of the largest value"
            )


def _check_unit(draw: Callable[..., Tensor], device: torch.device) -> None:
    h, residual, slope, shift_in, shift_out = draw(70, 96), draw(70, 48), draw(96), draw(96), draw(96)
    norm = nn.BatchNorm1d(96).to(device)
    parameters = [h, residual, norm.weight, norm.bias, shift_in, slope, shift_out]
    found = gpu._Unit.apply(h, residual, norm, h.dtype, *parameters[2:], None, None)
    argument = norm(h) + residual.repeat(1, 2) - shift_in
    _compare("unit", found, F.prelu(argument, slope) + shift_out, parameters)


def _check_cross(draw: Callable[..., Tensor]) -> None:
    base, n, taps, shift = draw(2, 5, 6, 40), draw(2, 5, 6, 40), draw(9, 40), draw(40)
    moved = [n.roll((-row, -column), (1, 2)) * tap for tap, (row, column) in zip(taps, TAPS)]
    _compare("cross", gpu.cross(base, n, taps, shift, True), base + shift + sum(moved), [base, n, taps, shift])


def _check_signs(draw: Callable[..., Tensor]) -> None:
    x, move, latent = draw(70, 40), draw(40), draw(24, 40)
    found = gpu._SignLinear.apply(x, move, latent, True, x.dtype)
    centred = latent - latent.mean(dim=1, keepdim=True)
    scale = latent.detach().abs().mean(dim=1, keepdim=True)
    # Values of signs, gradients of the polynomials and of the clamp that stand for them.
    soft, kept = x + move, centred.clamp(-1, 1) * 1.0
    smooth = torch.where(soft >= 0, 2 * soft - soft**2, 2 * soft + soft**2)
    smooth = torch.where(soft.abs() < 1, smooth, soft.detach().sign())
    signs = torch.where(soft >= 0, 1.0, -1.0) + smooth - smooth.detach()
    weight = torch.where(centred >= 0, scale, -scale) + kept - kept.detach()
    _compare("signs", found, signs @ weight.t(), [x, move, latent])


def _check_levels(draw: Callable[..., Tensor]) -> None:
    scores, step, offset = draw(2, 3, 10, 20), draw(3).detach().abs() + 0.1, draw(3).detach() * 0.1
    found = gpu._SoftmaxLevels.apply(scores, step, offset, 0.25, scores.dtype)
    levels = (3 * (scores * 0.25).softmax(dim=-1) / step[:, None, None] + offset[:, None, None]).round().clamp(0, 3)
    if not torch.allclose(found, levels * step[:, None, None], atol=TOLERANCE):
        raise RuntimeError("the kernel softmax_levels differs from PyTorch")
