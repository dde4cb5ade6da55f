"""Whether the Triton kernels and CUDA graphs compute on this GPU what they should; stops with an error if not.

    python -m benchmarks.training.gpu_check

Each Triton kernel against PyTorch; a step of a model with the kernels against the layers as they are written, in
float32; and steps of `bhvit train` with a graph against the same steps called.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.training.gpu import Loop, _layers
from torch import Tensor

from bhvit.models import create_model
from bhvit.models.fused.triton_check import check
from bhvit.train.graphs import StaticStep

STEPS = 8


def gradients(device: torch.device, *, fused: bool) -> list[Tensor]:
    """The loss and all gradients of a step in float32."""
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=10).to(device).train()
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    with _layers(fused=fused):
        loss = F.cross_entropy(model(images), torch.arange(32, device=device) % 10)
        loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def losses(device: torch.device, *, graphs: bool) -> list[float]:
    """Losses of the first steps of `bhvit train`."""
    loop: Any = Loop("bhvit_nano", 32, 64, device)
    static: StaticStep | None = loop.phase.step._static
    if static is not None and not graphs:
        static._capture = None
    found = [loop.step().item() for _ in range(STEPS)]
    if static is not None and graphs and static._captured is None and device.type == "cuda":
        raise SystemExit("the step was not captured as a CUDA graph")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    check(device)
    print("each Triton kernel computes what PyTorch does")
    pairs = list(zip(gradients(device, fused=True), gradients(device, fused=False), strict=True))
    worst = sorted(((a - b).norm() / b.norm().clamp(min=1e-6)).item() for a, b in pairs)
    # Some signs fall the other way by rounding, which moves whole gradients; kernels at fault move all of them.
    print(f"loss and gradients differ by {worst[len(worst) // 2]:.2g} (median), {worst[-1]:.2g} (most) of their norm")
    if worst[len(worst) // 2] > 0.05:
        raise SystemExit("the fused layers compute something else than the plain ones")
    called, replayed = losses(device, graphs=False), losses(device, graphs=True)
    print(f"losses of called steps:   {called}\nlosses of replayed steps: {replayed}")
    if any(abs(a - b) > 0.02 * abs(a) for a, b in zip(called, replayed)):
        raise SystemExit("a CUDA graph computes something else than the steps that it holds")


if __name__ == "__main__":
    main()
