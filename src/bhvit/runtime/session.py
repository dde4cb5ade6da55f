"""`Session`: a packed model, opened and ready to classify or segment images. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from .. import bundled
from .._native import FloatEnvironment, Program
from ..bits import Floats
from ..calibration import MISS_RATE, Calibration, Doubles, probabilities
from ..data import inputs as pictures
from ..data.inputs import Inputs, Picture
from ..decode import ImageLike
from ..errors import FormatError, UserError
from ..format import file as bhv_file
from ..image import Preprocess
from ..spec.model import ModelSpec, Task
from ..system import MAX_THREADS, allowed_cores
from . import label_maps
from .insight import Insight
from .opening import (
    Source,
    check_options,
    check_top,
    checked_picture,
    checked_source,
    header_of,
    named,
    open_program,
    worker_count,
)
from .pipeline import run_all

Answer = list[tuple[str, float]]
"""Classes of one image with their probabilities, the likeliest first."""


class Streamed(NamedTuple):
    """The answer for one picture of a stream, or why there is none."""

    name: str
    """The picture's path or address, or what stands for it: "clip.mp4 frame 12"."""
    classes: Answer | None
    """The likeliest classes with their probabilities; None if the picture cannot be read, and of a segmentation."""
    error: UserError | None
    """Why it cannot be read."""
    seconds: float | None
    """Of a video's frame, its time since the beginning."""
    picture: Picture
    """The picture itself; `picture.image()` decodes it again, to show it."""
    unknown: bool | None = None
    """Whether it is unlike the images that the model knows; None if that was not asked."""
    labels: label_maps.Labels | None = None
    """Of a segmentation, the class of each pixel, uint8 (height, width); None if the picture cannot be read."""


_BLOCK = 64
"""Pictures of a uint8 batch that are preprocessed at once."""


class Session(Insight):
    """A packed model, ready to run.

    It is a `.bhv` file, its bytes, or the name of a bundled model such as "cifar10".

    `threads` run one image together; 0 or "auto" takes the cores that this process may use (affinity and container
    quota). `isa` is "auto" (the fastest that this machine has, or what the environment variable BHVIT_ISA names) or one
    of `available_isas()`. Results are the same bits for every choice of both, and whatever rounding mode or
    flush-to-zero setting other libraries have left behind. A session may be used from several Python threads: calls
    take turns. A process forked from this one may use it too, unless a call was running at the fork: then calls raise
    UserError there.

    `max_memory` bounds the bytes that the model may take next to its file, so that a small untrusted file cannot
    take gigabytes; None means 512 MiB, many times what published models need.

    A file below 64 MB is read into memory, so that nothing which happens to it later matters. A larger one is mapped,
    and its weights are used where they lie: it may be replaced or deleted while a session is open (`bhvit pack`
    replaces), but writing into it changes the answers and cutting it short ends the process. `map` True or False maps
    or reads files of any size.

    A session can be pickled, by the absolute path of its file or by its bytes.

    Raises FormatError for a file that is not a whole, undamaged model, and UserError for a file that cannot be read, is
    a pipe or device, needs more memory than allowed, or for an impossible option.
    """

    def __init__(
        self,
        source: Source,
        threads: int | Literal["auto"] = 1,
        isa: str = "auto",
        *,
        max_memory: int | None = None,
        map: bool | None = None,
    ) -> None:
        check_options(threads, isa, max_memory, map)
        source = checked_source(source)
        count = min(allowed_cores(), MAX_THREADS) if threads in (0, "auto") else int(threads)
        program = open_program(source, count, isa, max_memory, map)
        self._program: Program | None = program
        try:
            described = bhv_file.describe(program.header or header_of(source))
            described.check(program.input_shape, program.classes)
        except UserError as error:
            raise FormatError(f"{named(source)}{error}") from error
        saved = source if isinstance(source, bytes) else bundled.find(Path(source), ".bhv").absolute()
        self._saved = (saved, threads, isa, max_memory, map)
        self._spec, self._class_names = described.spec, described.class_names
        self._preprocess, self._calibration = described.preprocess, described.calibration
        self._isa, self._threads, self._mapped = program.isa, program.threads, program.mapped

    @property
    def spec(self) -> ModelSpec:
        """The architecture, with the input size and the number of classes."""
        return self._spec

    @property
    def task(self) -> Task:
        """What the model does: "classify", or "segment", which labels each pixel."""
        return self._spec.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in the order of the logits."""
        return self._class_names

    @property
    def preprocessing(self) -> Preprocess:
        """The settings of `preprocess`, which the file holds."""
        return self._preprocess

    @property
    def calibration(self) -> Calibration | None:
        """The temperature of probabilities and known images' scores; None if not calibrated."""
        return self._calibration

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._isa

    @property
    def threads(self) -> int:
        """Threads that run one image together."""
        return self._threads

    @property
    def mapped(self) -> bool:
        """Whether the file is mapped, and must not be written into meanwhile."""
        return self._mapped

    def __call__(self, images: Floats | npt.NDArray[np.uint8], *, bgr: bool = False) -> Floats:
        """Compute logits, float32 (B, classes), of a batch of images. B may be 0.

        A segmentation gives logits of each pixel at the model's size, (B, classes, H, W).

        Takes normalised images, float32 (B, C, H, W), as `preprocess` makes them; or pictures, uint8 (B, height, width,
        C) of any size, which are preprocessed first. Colours are in the order RGB; with `bgr`, those of uint8 pictures
        are BGR, as OpenCV reads them.
        Raises UserError for anything else: for images that hold NaN or infinity, as a sign has no value for them and
        the answer would look sound and mean nothing, and for floats far beyond what normalised pixels give.
        """
        logits = [self.program.run(block) for block in self._blocks(images, bgr)]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def preprocess(self, image: ImageLike, *, bgr: bool = False) -> Floats:
        """Turn one image into what `__call__` takes, (1, C, H, W).

        `image` is a path, the bytes of an image file, a PIL image, or a uint8 array (H, W[, C]) in the order RGB or
        RGBA; with `bgr`, an array in the order BGR or BGRA, as OpenCV reads pictures.
        """
        given = checked_picture(image)
        with FloatEnvironment():
            if self.task == "segment":
                return self._preprocess.normalize(self._preprocess.whole(given, bgr=bgr)[None])
            return self._preprocess(given, bgr=bgr)

    def segment(
        self, image: ImageLike, *, windows: bool = False, overlap: float = label_maps.OVERLAP, bgr: bool = False
    ) -> label_maps.Labels:
        """Label each pixel of an image: uint8 (height, width), numbers of `class_names`.

        `image` is what `preprocess` takes. It is resized to the model's size and its labels are resized back; with
        `windows` it is covered by windows of the model's size instead, which overlap by that share of their edge or
        more, and their logits are added up. An image smaller than a window is enlarged for that.
        Raises UserError for a model that classifies.
        """
        if self.task != "segment":
            raise UserError(f"{self._spec.name} classifies images: session.classify(image) names what is in one")
        share = label_maps.check_overlap(overlap)
        preprocess = self._preprocess
        with FloatEnvironment():
            pixels = preprocess.decoded(checked_picture(image), bgr=bgr)
            if not windows:
                found = self.program.segment(preprocess.normalize(preprocess.resized(pixels, preprocess.size)[None]))[0]
                return label_maps.resized(found, pixels.shape[:2])
            height, width = pixels.shape[:2]
            grow = max(1.0, preprocess.size[0] / height, preprocess.size[1] / width)
            size = (max(preprocess.size[0], round(grow * height)), max(preprocess.size[1], round(grow * width)))
            label_maps.check_size(
                size, preprocess.size, len(self._class_names)
            )  # a long thin picture grows to gigabytes
            found = label_maps.covered(
                preprocess.resized(pixels, size) if grow > 1 else pixels,
                preprocess.size,
                share,
                len(self._class_names),
                lambda window: self.program.run(preprocess.normalize(window[None]))[0],
            )
            return label_maps.resized(found, (height, width))

    @overload
    def classify(  # type: ignore[overload-overlap]  # a str is a sequence of strings, too
        self,
        image: ImageLike,
        top: int = 5,
        *,
        bgr: bool = False,
        unknown: bool = False,
        miss_rate: float = MISS_RATE,
    ) -> Answer: ...
    @overload
    def classify(
        self,
        image: Sequence[ImageLike],
        top: int = 5,
        *,
        bgr: bool = False,
        unknown: bool = False,
        miss_rate: float = MISS_RATE,
    ) -> list[Answer]: ...
    def classify(
        self,
        image: ImageLike | Sequence[ImageLike],
        top: int = 5,
        *,
        bgr: bool = False,
        unknown: bool = False,
        miss_rate: float = MISS_RATE,
    ) -> Answer | list[Answer]:
        """Name the `top` likeliest classes of one image with their probabilities, the likeliest first.

        `image` is what `preprocess` takes. A sequence of images gives a list of such answers. Probabilities are
        calibrated where the file is, see `probabilities`. With `unknown`, the answer is empty for an image that is
        unlike those the model knows; `miss_rate`, 0 to 1, is the share of known images that may be refused so.
        Raises UserError with `unknown` where the file is not calibrated.
        """
        check_top(top)
        if self.task != "classify":
            raise UserError(f"{self._spec.name} labels pixels: session.segment(image) gives a map of them")
        if unknown:
            self._calibrated().threshold(miss_rate)  # refused for no images, too
        if isinstance(image, Sequence) and not isinstance(image, str | bytes | bytearray | memoryview):
            return [self.classify(one, top, bgr=bgr, unknown=unknown, miss_rate=miss_rate) for one in image]
        logits = self(self.preprocess(image, bgr=bgr))  # type: ignore[arg-type]  # bytes of any kind
        if unknown and self.unknown(logits, miss_rate)[0]:
            return []
        return self.likeliest(logits, top)[0]

    def likeliest(self, logits: Floats, top: int = 5) -> list[Answer]:
        """Logits (B, classes) -> of each image the `top` likeliest classes with their probabilities."""
        check_top(top)
        chances = self.probabilities(logits)
        best = np.argsort(-chances, axis=1, kind="stable")[:, :top]
        return [
            [(self._class_names[index], float(row[index])) for index in order]
            for row, order in zip(chances, best, strict=True)
        ]

    def probabilities(self, logits: Floats) -> Doubles:
        """Logits (B, classes) -> probabilities, float64 of the same shape: softmax(logits / temperature).

        The temperature is that of `calibration`, 1 where there is none. Raises UserError for another shape.
        """
        self._check_logits(logits)
        with FloatEnvironment():
            return probabilities(logits, self._calibration.temperature if self._calibration else 1.0)

    def unknown(self, logits: Floats, miss_rate: float = MISS_RATE) -> npt.NDArray[np.bool_]:
        """Logits (B, classes) -> whether each image is unlike those that the model knows, (B,).

        `miss_rate`, 0 to 1, is the share of known images that is accepted to be taken for unknown. Raises UserError
        for another number or shape, and where the file is not calibrated.
        """
        calibration = self._calibrated()
        self._check_logits(logits)
        with FloatEnvironment():
            return calibration.unknown(logits, miss_rate)

    def _calibrated(self) -> Calibration:
        if self._calibration is None:
            raise UserError(
                "the model has no threshold for unknown images: `bhvit calibrate MODEL --data FOLDER` measures one"
            )
        return self._calibration

    def _check_logits(self, logits: Any) -> None:
        classes = len(self._class_names)
        if not isinstance(logits, np.ndarray) or logits.ndim != 2 or logits.shape[1] != classes:
            given = f"shape {logits.shape}" if isinstance(logits, np.ndarray) else type(logits).__name__
            raise UserError(f"logits must be an array (B, {classes}), as session(images) gives them, not {given}")
        if not np.isfinite(logits).all():
            raise UserError("logits hold NaN or infinity, which say nothing of a class")

    def stream(
        self,
        sources: Inputs | pictures.Source | Sequence[pictures.Source],
        top: int = 5,
        *,
        workers: int | Literal["auto"] = "auto",
        every: int = 1,
        unknown: bool = False,
        miss_rate: float = MISS_RATE,
        windows: bool = False,
        overlap: float = label_maps.OVERLAP,
    ) -> Iterator[Streamed]:
        """Answer the pictures of any sources, in order: classes, or labels of pixels.

        A source is an image file, a folder, a pattern (photos/**/*.jpg), a .zip, .tar or .parquet file, a video file,
        the number of a camera, or an http, https or rtsp address; videos need PyAV (extra `video`). Of videos, every
        `every`-th frame is taken. Cameras and streams go on until the loop over the answers ends; frames that come
        while none is wanted are dropped.
        `workers` pictures are decoded, resized and run at the same time, by copies of this session that share its
        weights; "auto" takes the cores that this process may use, divided by the session's threads.
        `top`, `unknown` and `miss_rate` are those of `classify`, `windows` and `overlap` those of `segment`.
        Raises UserError for a source that does not exist, and for an option of the other task. A picture that cannot
        be read has its error as its outcome.
        """
        check_top(top)
        label_maps.check_overlap(overlap)
        if self.task == "segment" and unknown:
            raise UserError(f"{self._spec.name} labels pixels: unknown is for a model that classifies images")
        if self.task != "segment" and windows:
            raise UserError(f"{self._spec.name} classifies images: windows are for a model that labels pixels")
        count = worker_count(workers, self._threads)
        if unknown:
            self._calibrated().threshold(miss_rate)

        def classified(session: Session, picture: Picture) -> dict[str, Any]:
            logits = session(session.preprocess(picture.image(self.preprocessing.needed)))
            unlike = bool(session.unknown(logits, miss_rate)[0]) if unknown else None
            return {"classes": session.likeliest(logits, top)[0], "unknown": unlike}

        def segmented(session: Session, picture: Picture) -> dict[str, Any]:
            return {"labels": session.segment(picture.image(), windows=windows, overlap=overlap)}

        inputs = sources if isinstance(sources, Inputs) else pictures.open_inputs(sources, every=every)
        return self._stream(inputs, segmented if self.task == "segment" else classified, count)

    def _stream(
        self, inputs: Inputs, work: Callable[[Session, Picture], dict[str, Any]], workers: int
    ) -> Iterator[Streamed]:
        with closing(inputs):
            total = inputs.total
            sessions = [self, *(self.copy() for _ in range(min(workers, workers if total is None else total) - 1))]
            for picture, answer, error in run_all(inputs, sessions, work, ahead=1 if inputs.live else 2):
                yield Streamed(picture.name, None, error, picture.seconds, picture)._replace(**answer or {})

    def copy(self) -> Session:
        """Return another session of this model, which can run at the same time.

        The weights are shared. A model that was given as bytes has its own weights in each session.
        """
        another = Session.__new__(Session)
        another.__dict__.update(self.__dict__)
        saved, _, isa, max_memory, _ = self._saved
        if isinstance(saved, bytes):
            another._program = open_program(saved, self._threads, isa, max_memory, None)
        else:
            another._program = self.program.copy(self._threads, max_memory)
        return another

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

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[Any, ...]]:
        if self._program is None:
            raise UserError("a closed session cannot be pickled; open another")
        return _reopen, self._saved

    def __repr__(self) -> str:
        state = f"threads={self._threads}, isa={self._isa!r}" if self._program else "closed"
        return f"Session({self._spec.name!r}, {state})"

    def _blocks(self, images: Any, bgr: bool) -> Iterator[npt.NDArray[np.float32]]:
        """What `__call__` takes as normalised images, (b, C, H, W), one block or more."""
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            if bgr:
                raise UserError("bgr is for uint8 images (B, H, W, 3); normalised floats are in the order of the model")
            yield self._checked(images)
            return
        if images.ndim != 4:
            hint = "add the batch with images[None]" if images.ndim == 3 else "B, height, width, channels"
            raise UserError(f"uint8 images must be (B, H, W, C), not of shape {images.shape}; {hint}")
        if not len(images):
            yield np.zeros((0, self._spec.in_chans, *self._spec.img_size), np.float32)
        for start in range(0, len(images), _BLOCK):
            yield np.concatenate([self.preprocess(picture, bgr=bgr) for picture in images[start : start + _BLOCK]])

    def _checked(self, images: Any) -> npt.NDArray[np.float32]:
        wanted = (self._spec.in_chans, *self._spec.img_size)
        needs = f"float32 (B, {', '.join(map(str, wanted))})"
        hint = f"session.preprocess(image) makes it from a file or picture; uint8 (B, H, W, {wanted[0]}) is taken, too"
        if not isinstance(images, np.ndarray):
            raise UserError(f"images must be a NumPy array, {needs}, not {type(images).__name__}; {hint}")
        if images.dtype != np.float32:
            raise UserError(f"images must be {needs}, not {images.dtype}; {hint}")
        if images.ndim != 4 or images.shape[1:] != wanted:
            shape = f"({', '.join(map(str, images.shape))})"
            hint = "add the batch with images[None]" if images.shape == wanted else hint
            raise UserError(f"images must be {needs}, not of shape {shape}; {hint}")
        if images.size:
            low, high, most = float(images.min()), float(images.max()), self.program.largest_input
            if not (np.isfinite(low) and np.isfinite(high)):
                raise UserError("images hold NaN or infinity; check how they were normalised")
            if max(-low, high) > most:
                raise UserError(
                    f"images go from {low:g} to {high:g}, far beyond normalised pixels (±{most:g} is taken): pass "
                    f"uint8 images (B, H, W, {wanted[0]}), or what session.preprocess(image) makes"
                )
        return np.require(images, requirements=("C", "ALIGNED"))


def _reopen(source: Source, threads: Any, isa: str, max_memory: int | None, map: bool | None) -> Session:
    return Session(source, threads, isa, max_memory=max_memory, map=map)
