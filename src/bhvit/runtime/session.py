"""`Session`: a packed model, opened and ready to classify images. NumPy only."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import bundled
from .._native import Program, available_isas
from ..bits import Floats
from ..errors import FormatError, UserError
from ..format import file as bhv_file
from ..image import ImageLike
from ..spec.model import ModelSpec

MAX_THREADS = 256


class Session:
    """A `.bhv` file, opened; or, where no such file is, the bundled model of that name, such as "cifar10".

    `threads` run one image together; `isa` is "auto" (the fastest that this machine has, or what the
    environment variable BHVIT_ISA names) or one of `available_isas()`. Results are the same bits for
    every choice of both. A session may be used from several Python threads: calls take turns.

    The file is mapped where the platform can, and its weights are used where they lie. It may be replaced or deleted
    while a session is open (`bhvit pack` replaces), but writing into it changes the answers and cutting it short ends
    the process.

    Raises FormatError for a file that is not a whole, undamaged model, and UserError for a file that
    cannot be read or an impossible option.
    """

    def __init__(self, path: str | Path, threads: int = 1, isa: str = "auto") -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
            raise UserError(f"threads must be a whole number from 1 to {MAX_THREADS}, not {threads!r}")
        if not isinstance(isa, str):
            raise UserError(f"isa must be auto or one of {', '.join(available_isas())}, not {isa!r}")
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise UserError(f"a model is a path or the name of a bundled one, not {path!r}")
        path = bundled.find(path, ".bhv")
        try:
            program = Program.open(os.fsencode(path), threads, isa)  # checks the whole file
            described = bhv_file.describe(program.header)
            described.check(program.input_shape, program.classes)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}{bundled.hint(path)}") from error
        except UserError as error:
            raise FormatError(f"{path}: {error}") from error
        except (ValueError, RuntimeError) as error:  # an instruction set or threads that are not to be had
            raise UserError(str(error)) from error
        self._program: Program | None = program
        self._spec, self._class_names = described.spec, described.class_names
        self._preprocess = described.preprocess
        self._isa, self._threads = program.isa, program.threads

    @property
    def spec(self) -> ModelSpec:
        """The architecture, with the input size and the number of classes."""
        return self._spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the logits."""
        return self._class_names

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._isa

    @property
    def threads(self) -> int:
        """Threads that run one image together."""
        return self._threads

    def __call__(self, images: Floats) -> Floats:
        """Normalised images, float32 (B, C, H, W) -> logits, float32 (B, classes). B may be 0.

        Raises UserError for anything else, and for images that hold NaN or infinity: a sign has no
        value for them, so the answer would look sound and mean nothing.
        """
        return self.program.run(self._checked(images))

    def preprocess(self, image: ImageLike) -> Floats:
        """A path, PIL image or uint8 array (H, W[, C]) -> what `__call__` takes, (1, C, H, W)."""
        return self._preprocess(image)

    def classify(self, image: ImageLike, top: int = 5) -> list[tuple[str, float]]:
        """The `top` likeliest classes of one image with their probabilities, the likeliest first."""
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise UserError(f"top must be a whole number of at least 1, not {top!r}")
        logits = self(self.preprocess(image))[0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        probabilities = odds / odds.sum()
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [(self._class_names[index], float(probabilities[index])) for index in best]

    @property
    def program(self) -> Program:
        """The native program, for measuring and verifying. Raises UserError after `close`."""
        if self._program is None:
            raise UserError("the session is closed; open another")
        return self._program

    def close(self) -> None:
        """Free the model's memory and threads. The session cannot be used afterwards."""
        self._program = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"threads={self._threads}, isa={self._isa!r}" if self._program else "closed"
        return f"Session({self._spec.name!r}, {state})"

    def _checked(self, images: Any) -> npt.NDArray[np.float32]:
        wanted = (self._spec.in_chans, *self._spec.img_size)
        needs = f"float32 (B, {', '.join(map(str, wanted))})"
        mend = "session.preprocess(image) makes it from a file or picture"
        if not isinstance(images, np.ndarray):
            raise UserError(f"images must be a NumPy array, {needs}, not {type(images).__name__}; {mend}")
        if images.dtype != np.float32:
            raise UserError(f"images must be {needs}, not {images.dtype}; {mend}")
        if images.ndim != 4 or images.shape[1:] != wanted:
            shape = f"({', '.join(map(str, images.shape))})"
            hint = "add the batch with images[None]" if images.shape == wanted else mend
            raise UserError(f"images must be {needs}, not of shape {shape}; {hint}")
        if not np.isfinite(images).all():
            raise UserError("images hold NaN or infinity; check how they were normalised")
        return np.ascontiguousarray(images)
