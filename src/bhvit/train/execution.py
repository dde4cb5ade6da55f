"""How the steps of a phase are computed on their device: decided before the first, and said in one line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from .config import TrainConfig
from .context import RunContext

COMPILE_PIXELS = 4_000_000_000
"""Pixels of training images from which on compiling pays off by itself. On an H100 compiling `bhvit_small` took 43 s
and saved 1.7 ms of an image of 224x224, which is even at 1.3e9 pixels; this leaves a margin for smaller savings."""
GRAPH_STEPS = 100
"""Steps from which on a CUDA graph pays off by itself."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """What the steps of a phase use; of what they do not use, the reason."""

    static: bool
    """Whether all that changes from step to step lies in tensors on the device; see `TrainStep`."""
    compile: bool
    compile_reason: str
    graphs: bool
    graphs_reason: str

    @classmethod
    def choose(
        cls, config: TrainConfig, context: RunContext, images: int, size: tuple[int, int], masked: bool = False
    ) -> Execution:
        """For a phase of `config` with `images` training images of `size` (H, W), `masked` if they have masks."""
        compiles, why_compile = _compiles(config, context, config.epochs * images * math.prod(size))
        graphs, why_graphs = _graphs(config, context, images, masked)
        gpu = context.device.type == "cuda"
        return cls(gpu or config.graphs is True, compiles, why_compile, graphs, why_graphs)

    def describe(self, config: TrainConfig, context: RunContext, place: str) -> str:
        """One line; `place` says where the images are."""
        device = context.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        parts = [f"training on {name}", precision(config, device), f"images {place}"]
        if device.type == "cuda" or self.compile:
            parts.append("blocks compiled" if self.compile else f"blocks not compiled ({self.compile_reason})")
        if device.type == "cuda" or config.graphs is True:
            parts.append("CUDA graphs" if self.graphs else f"no CUDA graphs ({self.graphs_reason})")
        return ", ".join(parts)


@contextmanager
def reproducible() -> Iterator[None]:
    """Within it cuDNN takes algorithms that repeat exactly, without trying which is fastest: resumed runs need that."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def precision(config: TrainConfig, device: torch.device) -> str:
    """The precision of the forward pass, "auto" resolved."""
    if config.precision == "auto":
        return "float32" if device.type == "cpu" else "bfloat16"
    return config.precision


def _compiles(config: TrainConfig, context: RunContext, pixels: int) -> tuple[bool, str]:
    if config.compile != "auto":
        return config.compile, "compile=false"
    if context.device.type != "cuda":
        return False, "the device is no GPU"
    if not hasattr(torch.compiler, "set_stance"):
        return False, f"PyTorch {torch.__version__} is older than 2.6"
    if find_spec("triton") is None:
        return False, "the package triton is missing"
    if context.processes.size > 1:
        return False, "several processes exchange statistics within blocks, which Triton kernels fuse instead"
    if pixels < COMPILE_PIXELS:
        return False, "it pays off in longer runs only"
    return True, ""


def _graphs(config: TrainConfig, context: RunContext, images: int, masked: bool) -> tuple[bool, str]:
    if config.graphs is False:
        return False, "graphs=false"
    if context.device.type != "cuda":
        return False, "the device is no GPU"
    if masked:
        return False, "the loss of masks reads which pixels have labels"
    if context.processes.size > 1:
        return False, "several processes exchange statistics within a step"
    if config.accumulate > 1 and config.drop_path:
        return False, "each part of an accumulated batch draws its own drop_path"
    if config.graphs == "auto" and config.epochs * (images // config.batch_size) < GRAPH_STEPS:
        return False, "the run is too short"
    return True, ""
