"""Blocks compiled by `torch.compile`, where that works; everywhere else they run as they are."""

from __future__ import annotations

import copy
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..models import BHViT
from ..models.blocks import Block


def check_torch_compiles() -> None:
    """Raises UserError where PyTorch cannot run compiled blocks and plain ones side by side."""
    if not hasattr(torch.compiler, "set_stance"):
        raise UserError(
            f"compile=true needs PyTorch 2.6 or newer, not {torch.__version__}: upgrade it or train without"
        )


def compile_blocks(model: BHViT, batch: int, autocast: AbstractContextManager[Any], quiet: bool) -> None:
    """Compile every block of `model` for batches of `batch` images of training.

    A copy is compiled and tried first, which takes minutes: if that fails, one line says why and the model stays
    as it is. Blocks rather than the whole network, because equal blocks are then compiled once.
    """
    allow_for_blocks(model)
    rehearsal = copy.deepcopy(model).train()
    if not quiet:
        print("compiling the blocks, which takes minutes the first time", file=sys.stderr)
    try:
        _compile(rehearsal)
        images = torch.zeros(batch, model.spec.in_chans, *model.spec.img_size, device=model.stem.position.device)
        for _ in range(2):  # the first batch sets the attention's quantisers, which is a graph of its own
            with autocast:
                loss = rehearsal(images).sum()
            loss.backward()
    except Exception as error:  # whatever a compiler that is absent, old or at fault brings about
        torch.compiler.reset()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"warning: the blocks cannot be compiled here, training runs without: {reason}", file=sys.stderr)
        return
    del rehearsal
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # steps that a graph is captured from cannot take what other streams have kept
    _compile(model)


def allow_for_blocks(model: nn.Module) -> None:
    """Let PyTorch compile every block of `model`: past a limit it would run the others uncompiled and say nothing."""
    from torch import _dynamo  # slow to import, and only this needs it

    # One code object serves all blocks.
    limit = "recompile_limit" if hasattr(_dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(_dynamo.config, limit, max(getattr(_dynamo.config, limit), 4 * len(_blocks(model))))


def _blocks(model: nn.Module) -> list[Block]:
    """The blocks of all stages."""
    return [module for module in model.modules() if isinstance(module, Block)]


def _compile(model: nn.Module) -> None:
    for block in _blocks(model):
        block.compile(dynamic=False)


def as_they_are() -> AbstractContextManager[Any]:
    """Within this, compiled blocks run uncompiled: evaluation would compile them again for its own batches."""
    return torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
