"""More than a session's answers: features of an image, and what answers depend on."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._native import FloatEnvironment, Program
from ..bits import Floats
from ..errors import UserError, shown
from ..format import file as bhv_file
from ..format.file import PackedModel
from ..format.ops import head
from ..spec.values import nearest
from . import saliency
from .saliency import METHODS, Method

if TYPE_CHECKING:
    from ..decode import ImageLike
    from ..image import Preprocess
    from ..spec.model import ModelSpec


class Explanation(NamedTuple):
    """A map of what an answer depends on."""

    name: str
    """The class that the map is about."""
    probability: float
    """Of that class."""
    heat: Floats
    """0 to 1, the largest 1, for each pixel of the model's input, (H, W)."""
    method: str


class Insight(abc.ABC):
    """Features and explanations, for `Session` to inherit."""

    _class_names: tuple[str, ...]
    _saved: tuple[Any, ...]
    _preprocess: Preprocess
    _spec: ModelSpec
    _packed: PackedModel | None = None

    @property
    @abc.abstractmethod
    def program(self) -> Program: ...

    @abc.abstractmethod
    def __call__(self, images: Floats | npt.NDArray[np.uint8], *, bgr: bool = False) -> Floats: ...

    @abc.abstractmethod
    def preprocess(self, image: ImageLike, *, bgr: bool = False) -> Floats: ...

    @abc.abstractmethod
    def probabilities(self, logits: Floats) -> npt.NDArray[np.float64]: ...

    @abc.abstractmethod
    def _blocks(self, images: Any, bgr: bool) -> Iterator[npt.NDArray[np.float32]]: ...

    def embed(self, images: Floats | npt.NDArray[np.uint8], *, bgr: bool = False) -> Floats:
        """Compute the features that the classifier gets, float32 (B, channels), of what `__call__` takes.

        They are the normalised mean of the last tokens: images that look alike to the model have features with a large
        cosine. The same bits on every machine. Raises UserError as `__call__` does.
        """
        model = self._model()
        op = model.ops[-1]
        if op.kind != "head":
            raise UserError(f"{model.spec.name} labels pixels: only a model that classifies images has such features")
        tensors = model.op_tensors(op)
        features = []
        for block in self._blocks(images, bgr):
            for image in block:
                tokens = self.program.trace(image)[-2][1]
                with FloatEnvironment():
                    features.append(head.pooled(op, tensors, tokens))
        return np.stack(features) if features else np.zeros((0, op.attributes["channels"]), np.float32)

    def explain(
        self, image: ImageLike, method: Method = "occlusion", *, name: str | None = None, bgr: bool = False
    ) -> Explanation:
        """Map what the answer for one image depends on; `image` is what `preprocess` takes.

        `method` is "occlusion", how much the probability of the class falls where a part of the image is hidden, or
        "attention", the levels that each token receives, summed over heads and layers. `name` is the class that the
        map is about, by default the likeliest. Raises UserError for an unknown method or class, and for "attention"
        of a model that has none.
        """
        return self.explain_prepared(self.preprocess(image, bgr=bgr), method, name=name)

    def explain_prepared(
        self, prepared: Floats, method: Method = "occlusion", *, name: str | None = None
    ) -> Explanation:
        """The same of an image as `preprocess` makes it, (1, C, H, W)."""
        if method not in METHODS:
            raise UserError(f"a method is one of {', '.join(METHODS)}, not {shown(method)}")
        if self._spec.task != "classify":
            raise UserError(
                "the model labels pixels: `bhvit segment`, session.segment(image), shows what it takes them for"
            )
        label = None if name is None else self.label(name)
        chances = self.probabilities(self(prepared))[0]
        label = int(chances.argmax()) if label is None else label
        with FloatEnvironment():
            if method == "occlusion":
                heat: Floats | None = saliency.occlusion(self, prepared[0], label)
            else:
                heat = saliency.attention(self._model(), self.program.trace, prepared[0])
            heat = None if heat is None else heat / max(heat.max(), 1e-30)
        if heat is None:
            raise UserError("the model has no attention with levels to add up; the method occlusion takes any model")
        return Explanation(self._class_names[label], float(chances[label]), heat, method)

    def label(self, name: str) -> int:
        """Return the number of a class. Raises UserError if the model does not know it."""
        if name not in self._class_names:
            hint = nearest(name, self._class_names, limit=20)
            raise UserError(f"the model does not know the class {shown(name)}{hint}")
        if self._class_names.count(name) > 1:
            raise UserError(f"several classes are called {name}: leave the name out, and the likeliest class is taken")
        return self._class_names.index(name)

    @property
    def pixel_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel, for pixels in 0..1, that images were normalised with."""
        return self._preprocess.mean, self._preprocess.std

    def _model(self) -> PackedModel:
        """Read the file as Python does.

        Raises UserError if it has changed since the session was opened.
        """
        if self._packed is None:
            source, header = self._saved[0], self.program.header
            try:
                data = source if isinstance(source, bytes) else Path(source).read_bytes()
            except OSError as error:
                raise UserError(f"cannot read {source} again: {error.strerror}") from error
            if not data.startswith(header):
                raise UserError(f"{source} has changed since it was opened; open another session")
            self._packed = bhv_file.from_bytes(data)
        return self._packed
