"""Count the kernels that a training step launches, without a GPU.

Also the bytes that it keeps for backward.

    python -m benchmarks.training.launches

Every operation of PyTorch that computes counts as a launch, every call of a Triton kernel, too; views do not. What is
kept for backward is the memory of all tensors that autograd saves, less the parameters. Nothing here is a time. Writes
`launches.md` next to this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from benchmarks.common import add_page, markdown, write_results
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bhvit.models import create_model
from bhvit.models.fused import conditions, gpu, triton_calls

CASES = ("bhvit_nano:32:8", "bhvit_tiny:224:2")


class Launches(TorchDispatchMode):
    """Counts operations that compute: those whose results are no views of what they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        allocates = str(func).startswith(("aten.empty", "aten.new_empty"))
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default or allocates)
        return result


@contextmanager
def counting_triton(seen: list[str]) -> Iterator[None]:
    """Count Triton kernels in `seen`, by name, on any device, instead of running them."""

    def launch(kernel: Any, *_: object, **__: object) -> None:
        seen.append(kernel)

    class Names:
        def __getattr__(self, name: str) -> str:
            return name

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (conditions, "takes_triton", lambda x: True),
        (gpu, "is_used", lambda x: True),
        (triton_calls, "launch", launch),
        (triton_calls, "kernels", Names),
        (triton_calls, "_accumulator", lambda x: None),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        yield


def count(model: nn.Module, images: Tensor, *, triton: bool) -> dict[str, int]:
    """Count launches of a training step, Triton's among them, and bytes kept."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seen: list[str] = []
    plain = patch.object(conditions, "takes_triton", lambda x: None)
    keeping = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with counting_triton(seen) if triton else plain, Launches() as launches:
        with keeping, torch.autocast("cpu", torch.bfloat16):
            output = model(images)
            loss = F.cross_entropy(output.float(), torch.arange(len(images)))
        loss.backward()
    return {"launches": launches.count + len(seen), "triton": len(seen), "kept": sum(kept.values())}


def initialised(name: str, **settings: Any) -> nn.Module:
    """A model in training whose attention quantisers have their values."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10, **settings).train()
    for module in model.modules():
        if hasattr(module, "initialised"):
            module.initialised = torch.ones(1)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL:SIZE:BATCH")
    add_page(parser, Path(__file__).with_name("launches.md"))
    args = parser.parse_args()
    rows = []
    for case in args.cases:
        name, size, batch = case.split(":")[0], *map(int, case.split(":")[1:])
        model = initialised(name, img_size=size)
        images = torch.randn(batch, 3, size, size)
        for way in ("plain", "fused"):
            found = count(model, images, triton=way == "fused")
            each = found["kept"] / batch / 2**20
            rows.append([name, f"{size}×{size}", way, found["launches"], found["triton"], f"{each:.2f}"])
            print(*rows[-1], flush=True)
    header = ["Model", "Images", "Layers", "Launches", "of these Triton", "MiB kept an image"]
    text = f"""Forward and backward of one step under bfloat16 autocast, without the optimiser. Plain: the layers as
they are written; fused: with the Triton kernels. Counted on a CPU; times on a GPU: `gpu.py`.

{markdown(header, rows)}"""
    write_results(args.page, "Kernels of a training step on a GPU", text)


if __name__ == "__main__":
    main()
