"""Types of the native engine; `bhvit.Session` is its public face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

class Program:
    """A model that is ready to run. Calls from several threads take turns.

    Raises bhvit.FormatError for a damaged file, ValueError for an unknown instruction set, and bhvit.UserError for one
    that needs more memory than `max_memory` bytes (default 512 MiB) or that a parent process was running at a fork.
    """

    def __init__(self, file: bytes, threads: int = 1, isa: str = "auto", max_memory: int | None = None) -> None: ...
    @staticmethod
    def open(
        path: bytes, threads: int = 1, isa: str = "auto", max_memory: int | None = None, map: bool | None = None
    ) -> Program:
        """The model in a file, whose weights are used where they lie. Raises OSError if it cannot be read.

        `map` says whether the file is mapped or read into memory; None maps those of 64 MB or more.
        """

    def copy(self, threads: int = 1, max_memory: int | None = None) -> Program:
        """Another program of the same file, whose weights both share; they run side by side.

        Raises ValueError for a program that was made from bytes.
        """

    def run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, in_chans, H, W), C-contiguous -> logits (B, classes), or of pixels (B, classes, H, W).

        Signal handlers run between images.
        """

    def segment(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """(B, in_chans, H, W), C-contiguous -> labels (B, H, W) of a segmentation; ValueError for a classifier."""

    def trace(self, image: npt.NDArray[np.float32]) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """One image (in_chans, H, W) -> after each op its name and x, (H, W, C); the head gives (classes,), or of
        pixels (classes, H, W)."""

    def profile(self, image: npt.NDArray[np.float32], repeats: int = 1) -> list[tuple[str, str, float]]:
        """Of each op: its name, its kind, the median of its nanoseconds over the repeats."""

    def fit(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A picture (height, width, C) resized and cropped as the model's preprocessing says, (H, W, C)."""

    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(in_chans, H, W)"""

    @property
    def classes(self) -> int: ...
    @property
    def segments(self) -> bool:
        """Whether the program labels pixels."""

    @property
    def header(self) -> bytes:
        """Of a program that was opened by its path, the bytes before the tensors; otherwise empty."""

    @property
    def largest_input(self) -> float:
        """The largest magnitude of an input that normalised pixels can have, with a wide margin."""

    @property
    def mapped(self) -> bool: ...
    @property
    def memory_bytes(self) -> int:
        """What the program holds: parameters, grids and scratch, without the file that it was opened from."""

class FloatEnvironment:
    """A context in which this thread rounds to nearest and keeps subnormal numbers, whatever was set before."""

    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

def available_isas() -> list[str]:
    """Instruction sets that this machine can run, the fastest first."""

def resize(
    pixels: npt.NDArray[np.uint8], size: tuple[int, int], filter: str, box: tuple[float, float, float, float]
) -> npt.NDArray[np.uint8]:
    """Pillow's resize of (height, width, C), byte for byte; `size` is (H, W), `box` (left, top, right, bottom)."""

def crc32(data: bytes) -> int: ...
def peak_rate(isa: str = "auto", seconds: float = 0.2) -> float:
    """Binary multiply-accumulates a second of XOR, population count and add on registers, one thread."""

def float_peak_rate(isa: str = "auto", seconds: float = 0.2) -> float:
    """Float multiplications with additions a second on registers, each rounded, one thread."""

def binary_linear(
    isa: str, activations: npt.NDArray[np.uint32], tiles: npt.NDArray[np.uint32], length: int
) -> npt.NDArray[np.int32]:
    """(T, W) words and (tiles, W, 16) weights of `length` signs each -> dot products (T, 16 * tiles)."""

def common_bits(isa: str, activations: npt.NDArray[np.uint32], tiles: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
    """(T, W) words AND (tiles, W, 16) words -> common set bits (T, 16 * tiles)."""
