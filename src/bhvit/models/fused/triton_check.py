"""Whether the Triton kernels compute on a device what PyTorch does, on a few small tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...format.arithmetic import TAPS
from ..attention_quantizers import DecomposedAttention
from ..batch_statistics import alone, least_over_processes
from . import gpu

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest difference from PyTorch, as a part of the largest value, by the type of tokens."""

Draw = Callable[..., Tensor]
"""Random float32 numbers of a shape that have gradients."""


def check(device: torch.device) -> None:
    """Raises RuntimeError if a kernel answers otherwise than PyTorch, or what the compiler raises.

    Of several processes all raise if one does: the kernels exchange other statistics than the layers.
    """
    failed: Exception | None = None
    try:
        with alone(), torch.enable_grad():
            _check_all(device)
    except Exception as error:
        failed = error
    if least_over_processes(torch.tensor(0.0 if failed else 1.0, device=device)).item() < 1:
        raise failed or RuntimeError("they do not work in another process")


def _check_all(device: torch.device) -> None:
    # Not from the global generator, which training has seeded.
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    for kind in (torch.float32, torch.bfloat16):
        _check_unit(draw, device, kind)
    _check_cross(draw)
    _check_signs(draw)
    _check_mlp(draw, device)
    _check_levels(draw, device)


def _compare(name: str, found: Tensor, expected: Tensor, tensors: list[Tensor], tolerance: float) -> None:
    grad = torch.linspace(-1, 1, found.numel(), device=found.device).view(found.shape)
    ours = found, *torch.autograd.grad(found, tensors, grad.to(found.dtype))
    theirs = expected, *torch.autograd.grad(expected, tensors, grad)
    for own, other in zip(ours, theirs, strict=True):
        difference = (own - other).abs().max() / other.abs().max().clamp(min=1e-6)
        if not difference < tolerance:
            raise RuntimeError(
                f"the kernel {name} differs from PyTorch by {difference.item():.2g} of the largest value"
            )


def _check_unit(draw: Draw, device: torch.device, kind: torch.dtype) -> None:
    h, residual, slope, shift_in, shift_out = draw(70, 96), draw(70, 48), draw(96), draw(96), draw(96)
    norm = nn.BatchNorm1d(96).to(device)
    parameters = [h, residual, norm.weight, norm.bias, shift_in, slope, shift_out]
    found = gpu._Unit.apply(h.to(kind), residual.to(kind), norm, kind, *parameters[2:], None, None)
    argument = norm(h.to(kind).float()) + residual.to(kind).float().repeat(1, 2) - shift_in
    _compare("unit", found, F.prelu(argument, slope) + shift_out, parameters, TOLERANCE[kind])


def _check_cross(draw: Draw) -> None:
    base, n, taps, shift = draw(2, 5, 6, 40), draw(2, 5, 6, 40), draw(9, 40), draw(40)
    moved = [n.roll((-row, -column), (1, 2)) * tap for tap, (row, column) in zip(taps, TAPS)]
    found, tensors = gpu.cross(base, n, taps, shift, True), [base, n, taps, shift]
    _compare("cross", found, base + shift + sum(moved), tensors, TOLERANCE[torch.float32])


def _signs(soft: Tensor) -> Tensor:
    """Values of signs, the gradient of the polynomials that stands for theirs."""
    smooth = torch.where(soft >= 0, 2 * soft - soft**2, 2 * soft + soft**2)
    smooth = torch.where(soft.abs() < 1, smooth, soft.detach().sign())
    return torch.where(soft >= 0, 1.0, -1.0) + smooth - smooth.detach()


def _binary(latent: Tensor) -> Tensor:
    """Binary weights, the gradient of the clamp that stands for theirs."""
    centred = latent - latent.mean(dim=1, keepdim=True)
    scale, kept = latent.detach().abs().mean(dim=1, keepdim=True), centred.clamp(-1, 1) * 1.0
    return torch.where(centred >= 0, scale, -scale) + kept - kept.detach()


def _check_signs(draw: Draw) -> None:
    x, learnable_bias, latent = draw(70, 40), draw(40), draw(24, 40)
    found = gpu._SignLinear.apply(x, learnable_bias, latent, True, x.dtype)
    expected = _signs(x + learnable_bias) @ _binary(latent).t()
    _compare("signs", found, expected, [x, learnable_bias, latent], TOLERANCE[torch.float32])


def _check_mlp(draw: Draw, device: torch.device) -> None:
    n, shapes = draw(70, 48), ((96, 48), (48, 96))
    norms = [nn.BatchNorm1d(outputs).to(device) for outputs, _ in shapes]
    (learnable_bias1, latent1, *inner), (learnable_bias2, latent2, *outer) = (
        [draw(inputs), draw(outputs, inputs), norm.weight, norm.bias, *(draw(outputs) for _ in range(3))]
        for (outputs, inputs), norm in zip(shapes, norms)
    )
    scale, shift = draw(48), draw(48)
    tensors = [n, learnable_bias1, latent1, *inner, learnable_bias2, latent2, *outer, scale, shift]
    found = gpu._Mlp.apply(n, *norms, n.dtype, *tensors[1:])
    h = norms[0](_signs(n + learnable_bias1) @ _binary(latent1).t()) + n.repeat(1, 2)
    u = F.prelu(h - inner[2], inner[3]) + inner[4]
    v = norms[1](_signs(u + learnable_bias2) @ _binary(latent2).t()) + u.view(70, 48, 2).mean(dim=-1)
    expected = (F.prelu(v - outer[2], outer[3]) + outer[4]) * scale + shift
    _compare("unit of an MLP", found, expected, tensors, TOLERANCE[torch.float32])


def _check_levels(draw: Draw, device: torch.device) -> None:
    scores, quantizer = draw(2, 3, 10, 20), DecomposedAttention(3)
    with torch.no_grad():
        quantizer.step.copy_(draw(3).abs() + 0.1)
        quantizer.offset.copy_(draw(3) * 0.1)
    quantizer.to(device).eval()
    found = gpu._SoftmaxLevels.apply(scores, quantizer.step, quantizer.offset, 0.25, scores.dtype)
    expected = quantizer((scores * 0.25).softmax(dim=-1))
    tensors = [scores, quantizer.step, quantizer.offset]
    _compare("softmax_levels", found, expected, tensors, TOLERANCE[torch.float32])
