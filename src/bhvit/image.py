"""From an image to a model's input: resize, crop, normalise.

Training's validation, evaluation and running all come through `Preprocess`, which needs NumPy and
Pillow only, so that a packed file sees exactly the pixels its model was validated on.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decode import ImageLike, Needed, convert, open_planes
from .errors import UserError, require, shown
from .spec.values import is_finite

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_EDGE = 8192
MAX_CHANNELS = 64
MIN_CROP = 0.001
MAX_DRAFT = 16
_LARGEST = 2.0**100

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes a model's input. Sizes are (H, W) in pixels.

    The image is resized, keeping its aspect, until it just covers `size / crop`, and the centre of
    it, of `size`, is kept: the usual ImageNet evaluation. An image that already has the right size
    is not resampled when `crop` is 1. Raises UserError for settings that mean nothing.
    """

    size: tuple[int, int] = (224, 224)
    """Height and width of the result in pixels."""
    channels: int = 3
    """1: greyscale; 3: RGB; any other number takes arrays of that many channels only."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean a channel, for pixel values in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation a channel, for pixel values in 0..1."""
    crop: float = 0.875
    """Fraction of the resized image's edge that the centre crop keeps; 1.0 keeps it all."""
    interpolation: Interpolation = "bicubic"
    draft: float = 0.0
    """JPEG files are decoded at a half, quarter or eighth of their size where that is still this many times the size
    that they are resized to, as Pillow's `draft` does: 1 is fastest, 2 hardly changes pixels. 0 decodes all pixels."""

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            require(hasattr(value, "__len__"), f"{name} must be a tuple, not {shown(value)}")
        require(
            len(self.size) == 2 and all(type(edge) is int and 1 <= edge <= MAX_EDGE for edge in self.size),
            f"size must be two numbers of pixels from 1 to {MAX_EDGE}, not {shown(self.size)}",
        )
        require(
            type(self.channels) is int and 1 <= self.channels <= MAX_CHANNELS,
            f"channels must be 1 to {MAX_CHANNELS}, not {self.channels!r}",
        )
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(
                len(values) == self.channels and all(is_finite(value) for value in values),
                f"{name} must be {self.channels} finite numbers, one a channel, not {shown(values)}",
            )
        require(
            all(1 / _LARGEST <= value <= _LARGEST for value in self.std),
            f"std must be positive, from 2^-100 to 2^100, not {shown(self.std)}",
        )
        require(
            all(abs(mean) / std <= _LARGEST for mean, std in zip(self.mean, self.std)),
            f"mean must be at most 2^100 times std, not {shown(self.mean)}",
        )
        require(
            is_finite(self.crop) and MIN_CROP <= self.crop <= 1,
            f"crop must be from {MIN_CROP} to 1, not {shown(self.crop)}",
        )
        require(
            isinstance(self.interpolation, str) and self.interpolation in _RESAMPLING,
            f"interpolation must be one of {', '.join(_RESAMPLING)}, not {self.interpolation!r}",
        )
        require(
            is_finite(self.draft) and (self.draft == 0 or 1 <= self.draft <= MAX_DRAFT),
            f"draft must be 0 or from 1 to {MAX_DRAFT}, not {shown(self.draft)}",
        )

    @classmethod
    def usual(
        cls,
        size: tuple[int, int],
        channels: int,
        *,
        crop: float = 0.875,
        interpolation: Interpolation = "bicubic",
        draft: float = 0.0,
    ) -> Preprocess:
        """Settings with the usual mean and standard deviation.

        Those are ImageNet's for RGB, and 0.5 and 0.25 for any other number of channels.
        """
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
        return cls(
            size=size, channels=channels, mean=mean, std=std, crop=crop, interpolation=interpolation, draft=draft
        )

    @property
    def needed(self) -> Needed | None:
        """What `load_image` must keep of a JPEG file; None: everything."""
        return self._least if self.draft else None

    def _least(self, width: int, height: int) -> tuple[int, int]:
        full_w, full_h = self._covering(width, height)
        return math.ceil(self.draft * full_w), math.ceil(self.draft * full_h)

    def __call__(self, image: ImageLike, *, bgr: bool = False) -> npt.NDArray[np.float32]:
        """Return the normalised image, float32 (1, C, H, W), C-contiguous.

        Takes a path, the bytes of an image file, a PIL image of any mode, or a uint8 array (H, W) or (H, W, C) whose
        colours are in the order RGB or RGBA; with `bgr`, in the order BGR or BGRA, as OpenCV reads pictures.
        Raises UserError, naming the path where there is one, for what is not an image.
        """
        return self.normalize(self.pixels(image, bgr=bgr)[None])

    def pixels(self, image: ImageLike, *, bgr: bool = False) -> npt.NDArray[np.uint8]:
        """Resize and crop an image, without normalising it: uint8 (H, W, C), colours as RGB."""
        planes = open_planes(image, self.channels, bgr=bgr, needed=self.needed)
        resized = [np.asarray(self._resize(plane)) for plane in planes]
        return np.ascontiguousarray(np.concatenate([np.atleast_3d(part) for part in resized], axis=2))

    def needed_of(self, box: tuple[int, int, int, int]) -> Needed:
        """As `needed`, where `stretched` takes the part in `box` of the picture."""
        left, top, right, bottom = box
        scale_w, scale_h = (self.draft * self.size[1] / (right - left), self.draft * self.size[0] / (bottom - top))
        return lambda width, height: (math.ceil(scale_w * width), math.ceil(scale_h * height))

    def whole(self, image: ImageLike, *, bgr: bool = False) -> npt.NDArray[np.uint8]:
        """Resize all of an image to `size`, whatever its aspect: uint8 (H, W, C).

        Segmentations take images so.
        """
        return self.resized(self.decoded(image, bgr=bgr), self.size)

    def decoded(self, image: ImageLike, *, bgr: bool = False) -> npt.NDArray[np.uint8]:
        """An image at its own size in the model's channels: uint8 (height, width, C)."""
        planes = open_planes(image, self.channels, bgr=bgr)
        return np.concatenate([np.atleast_3d(np.asarray(plane)) for plane in planes], axis=2)

    def resized(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Resize pixels (height, width, C) to `size` (H, W), whatever their aspect: uint8."""
        if pixels.shape[:2] == size:
            return np.ascontiguousarray(pixels)
        planes = [pixels] if pixels.shape[2] == 3 else list(np.moveaxis(pixels, -1, 0))
        images = (Image.fromarray(np.ascontiguousarray(plane)) for plane in planes)
        parts = [np.asarray(one.resize(size[::-1], _RESAMPLING[self.interpolation])) for one in images]
        return np.ascontiguousarray(np.concatenate([np.atleast_3d(part) for part in parts], axis=2))

    def stretched(self, image: Image.Image, box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
        """Cut out a part of an image and resize it to `size`: uint8.

        The part is `box` (left, top, right, bottom), of any aspect; the result is (H, W, C). This is training's
        random resized crop.
        """
        part = convert(image.crop(box), self.channels)
        resized = np.array(part.resize(self.size[::-1], _RESAMPLING[self.interpolation]))
        return resized.reshape(*self.size, self.channels)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Normalise pixels: uint8 (B, H, W, C) to float32 (B, C, H, W), C-contiguous.

        That is (x / 255 - mean) / std.
        """
        scale = np.array([1 / (255 * std) for std in self.std], dtype=np.float32)
        offset = np.array([-mean / std for mean, std in zip(self.mean, self.std)], dtype=np.float32)
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
        planes *= scale[:, None, None]
        planes += offset[:, None, None]
        return planes

    def _covering(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture is resized to before its centre is cropped.

        Whole numbers throughout: floor(size / crop), as timm does, then the edge that just covers.
        """
        cover_h, cover_w = (max(edge, int(edge / self.crop + 1e-6)) for edge in self.size)
        if cover_h * width >= cover_w * height:
            return width * cover_h // height, cover_h
        return cover_w, height * cover_w // width

    def _resize(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        full_w, full_h = self._covering(image.width, image.height)
        top, left = round((full_h - height) / 2), round((full_w - width) / 2)
        if (full_w, full_h) == image.size:
            return image.crop((left, top, left + width, top + height))
        # Resampling only the kept part is the same arithmetic as resizing all of it and cropping,
        # and a long thin image cannot ask for a gigantic intermediate.
        step_w, step_h = image.width / full_w, image.height / full_h
        box = (left * step_w, top * step_h, (left + width) * step_w, (top + height) * step_h)
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
        return image.resize((width, height), _RESAMPLING[self.interpolation], box=box)

    def to_json(self) -> str:
        """The settings as JSON with sorted keys; `from_json` gives an equal object back."""
        fields = dataclasses.asdict(self)
        if not self.draft:  # which earlier versions do not know
            del fields["draft"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Read settings from `to_json`.

        Raises UserError saying what is missing, unknown or impossible.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            for key in ("size", "mean", "std"):
                fields[key] = tuple(fields[key])
            return cls(**fields)
        except UserError as error:
            raise UserError(f"the preprocessing description is damaged: {error}") from error
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"the preprocessing description is damaged: {error!r}") from error
