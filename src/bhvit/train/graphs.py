"""A step as a CUDA graph: its kernels are launched once and then repeated, which costs the CPU next to nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

WARM_UP = 3
"""Steps that are called before one is captured: in the first, quantisers and the optimiser take their first values."""

Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], object], Tensor]]
"""From a function of tensors that stay where they are: what computes it again, and its result, which stays too."""


def cuda_graph(compute: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    """`Capture` by CUDA. Nothing is computed yet."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    gc.collect()  # what only cycles hold would keep its memory from the graph
    try:
        # Of this thread alone: the one that pins workers' batches may allocate meanwhile.
        with torch.cuda.graph(graph, stream=_stream(device), capture_error_mode="thread_local"):
            result = compute()
    except BaseException:
        _recover(device, before)
        raise
    return graph.replay, result


def _recover(device: torch.device, stream: torch.cuda.Stream) -> None:
    """Undo what a refused capture leaves: its stream as the current one, a generator that only draws in captures."""
    torch.cuda.set_stream(stream)
    index = torch.cuda.current_device() if device.index is None else device.index
    if hasattr(torch.Generator, "graphsafe_set_state"):
        fresh = torch.Generator(torch.device("cuda", index))
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())


class StaticStep:
    """Computes steps from inputs at fixed addresses: calls the first ones, captures the next, repeats that.

    Without `capture`, or where it fails, which is said, every step is called.
    """

    def __init__(
        self,
        compute: Callable[[Mapping[str, Tensor], int | None], Tensor],
        device: torch.device,
        capture: Capture | None,
        say: Callable[[str], None],
    ) -> None:
        """`compute` takes the inputs and the seed, which is None while it is captured."""
        self._compute, self._device, self._capture, self._say = compute, device, capture, say
        self._inputs: dict[str, Tensor] = {}
        self._captured: tuple[Callable[[], object], Tensor] | None = None
        self._calls = 0

    def __call__(self, inputs: Mapping[str, Tensor], seed: int) -> Tensor:
        """The result for `inputs`, on any device and always of the same shapes; the next call overwrites it."""
        self._fill(inputs)
        torch.manual_seed(seed)
        if self._capture is not None and self._calls >= WARM_UP:
            self._try_to_capture(self._capture)
            torch.manual_seed(seed)  # of a generator that a failed capture may have replaced
        if self._captured is not None:  # what a graph draws follows the generator, too
            replay, result = self._captured
            replay()
            return result
        self._calls += 1
        with _aside(self._device) if self._capture is not None else nullcontext():
            return self._compute(self._inputs, seed)

    def _fill(self, inputs: Mapping[str, Tensor]) -> None:
        pins = self._device.type == "cuda"
        for name, value in inputs.items():
            if name not in self._inputs:
                self._inputs[name] = torch.empty_like(value, device=self._device)
            if pins and value.device.type == "cpu" and not value.is_pinned():
                value = value.pin_memory()  # or the copy would wait for the device
            self._inputs[name].copy_(value, non_blocking=True)

    def _try_to_capture(self, capture: Capture) -> None:
        self._capture = None
        try:
            self._captured = capture(lambda: self._compute(self._inputs, None), self._device)
        except Exception as error:  # whatever in a step cannot be captured: the error says what
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._say(f"warning: the step cannot be captured as a CUDA graph, training runs without: {reason}")


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that steps are called on before one is captured there: autograd's nodes remember theirs."""
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _STREAMS[device]


def _aside(device: torch.device) -> AbstractContextManager[object]:
    return _on_stream(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _on_stream(device: torch.device) -> Iterator[None]:
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
