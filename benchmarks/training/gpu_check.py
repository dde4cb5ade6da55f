"""Whether the Triton kernels and CUDA graphs compute on this GPU what they should.

    python -m benchmarks.training.gpu_check

Each check runs whatever the others found, and says so in a line; the exit status is 1 if one of them failed:

- kernels: each Triton kernel against PyTorch;
- layers: a step of a model with the kernels against the layers as they are written, in float32;
- graphs: steps of `bhvit train` with a graph against the same steps called, bit for bit;
- resume: a run of `bhvit train` that is interrupted and resumed against one that is not, bit for bit, with images
  that worker processes decode.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.training.gpu import Loop, _layers
from torch import Tensor

from bhvit.models import create_model, load_checkpoint
from bhvit.models.fused.triton_check import check as check_kernels
from bhvit.train import Callback, TrainConfig, train

STEPS = 8
SETTINGS = {"ema": 0.9, "clip_grad": 1.0, "mixup": 0.2, "cutmix": 1.0, "erase": 0.3, "drop_path": 0.1}
"""Of the steps that a graph holds: what draws at random and what changes from step to step."""


def kernels(device: torch.device) -> str:
    """Compare each kernel with PyTorch."""
    check_kernels(device)
    return "each Triton kernel computes what PyTorch does"


def _gradients(device: torch.device, *, fused: bool) -> list[Tensor]:
    """The loss and all gradients of a step in float32."""
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=10).to(device).train()
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    with _layers(fused=fused):
        loss = F.cross_entropy(model(images), torch.arange(32, device=device) % 10)
        loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def layers(device: torch.device) -> str:
    """Compare a step with the kernels with one of the layers as they are written."""
    pairs = list(zip(_gradients(device, fused=True), _gradients(device, fused=False), strict=True))
    worst = sorted(((a - b).norm() / b.norm().clamp(min=1e-6)).item() for a, b in pairs)
    found = f"loss and gradients differ by {worst[len(worst) // 2]:.2g} (median), {worst[-1]:.2g} (most) of their norm"
    # Some signs fall the other way by rounding, which moves whole gradients; kernels at fault move all of them.
    if worst[len(worst) // 2] > 0.05:
        raise RuntimeError(found)
    return found


def _steps(device: torch.device, *, graphs: bool) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of the first steps of `bhvit train`."""
    loop: Any = Loop("bhvit_nano", 32, 64, device, **SETTINGS)
    if loop.static is not None and not graphs:
        loop.static._capture = None
    losses = [loop.step().item() for _ in range(STEPS)]
    if loop.static is not None and graphs and loop.static._captured is None and device.type == "cuda":
        raise RuntimeError("the step was not captured as a CUDA graph")
    return losses, dict(loop.phase.result.state_dict())


def graphs(device: torch.device) -> str:
    """Compare steps that a graph repeats with called ones."""
    called, replayed = _steps(device, graphs=False), _steps(device, graphs=True)
    print(f"losses of called steps:   {called[0]}\nlosses of replayed steps: {replayed[0]}")
    return f"losses and weights with a graph and without are the same: {_same(called[1], replayed[1])}"


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> str:
    """How many tensors are the same. Raises RuntimeError if one differs."""
    off = {name: (a.float() - second[name].float()).abs().max().item() for name, a in first.items()}
    other = [name for name, difference in off.items() if difference]
    if other:
        worst = max(other, key=lambda name: off[name])
        raise RuntimeError(f"{len(other)} of {len(off)} tensors differ, {worst} by {off[worst]:.2g}")
    return f"{len(off)} tensors"


class _Interrupt(Callback):
    """Ends a run before it has saved its second epoch."""

    def on_epoch_end(self, entry: Any, model: Any) -> None:
        if entry["epoch"] == 2:
            raise InterruptedError


def resume(device: torch.device) -> str:
    """Compare a run that goes on with one that was never interrupted."""
    settings = {"data": "digits", "model": "bhvit_nano", "img_size": 32, "epochs": 2, "batch_size": 64, "workers": 2}
    more = {"augment": "resized-crop", "graphs": "auto" if device.type == "cpu" else True, "device": str(device)}
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str, **options: Any) -> Path:
            config = TrainConfig.from_dict({**settings, **more, "out": str(Path(folder, name))})
            return train(config, **options).last

        whole = load_checkpoint(run("whole")).state_dict()
        with contextlib.suppress(InterruptedError):
            run("cut", callbacks=[_Interrupt()])
        resumed = load_checkpoint(run("cut", resume=True)).state_dict()
        return f"a resumed run ends with the same weights: {_same(whole, resumed)}"


CHECKS: tuple[Callable[[torch.device], str], ...] = (kernels, layers, graphs, resume)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=[check.__name__ for check in CHECKS], help="these checks alone")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    failed = []
    for check in CHECKS:
        if args.only and check.__name__ not in args.only:
            continue
        begin = time.perf_counter()
        try:
            line = check(device)
        except Exception as error:  # the others still say what they find
            traceback.print_exc()
            failed.append(check.__name__)
            line = f"FAILED: {error}"
        print(f"{check.__name__} ({time.perf_counter() - begin:.0f} s): {line}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
