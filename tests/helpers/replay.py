"""A CUDA graph's stand-in on a CPU: the operations of one call, repeated on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each operation with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def record(compute: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """`bhvit.train.graphs.Capture` on a CPU: as of a CUDA graph, addresses and Python's numbers stay what they were.

    Unlike a CUDA graph it computes as it captures, so that the first replay does nothing.
    """
    with _Recorder() as recorder:
        result = compute()
    calls, replays = recorder.calls, [0]

    def replay() -> None:
        replays[0] += 1
        if replays[0] == 1:
            return
        with torch._C._AutoDispatchBelowAutograd():  # where they were recorded
            for func, args, kwargs, before in calls:
                given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
                for old, new in zip(_tensors(before), _tensors(func(*args, **kwargs)), strict=True):
                    if old.untyped_storage().data_ptr() not in given:  # no view, and not written in place
                        old.copy_(new)

    return replay, result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
