"""Model sizes by name."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from ..errors import UserError
from ..spec import Downsampling, ModelSpec, StageSpec
from .network import BHViT


def _published(depths: tuple[int, int, int, int]) -> tuple[StageSpec, ...]:
    rows: Any = zip(
        depths, (64, 128, 256, 512), (512, 1024, 1024, 2048), ("conv", "conv", "attention", "attention"), (1, 1, 4, 8)
    )
    return tuple(StageSpec(depth=d, channels=c, hidden=f, mixer=m, heads=h) for d, c, f, m, h in rows)


_TINY = _published((2, 2, 6, 2))
_SMALL = _published((3, 4, 8, 4))
_NANO = (
    StageSpec(depth=2, channels=64, hidden=256, mixer="conv"),
    StageSpec(depth=2, channels=128, hidden=512, mixer="attention", heads=2),
    StageSpec(depth=2, channels=256, hidden=1024, mixer="attention", heads=4),
)

# name: stages, downsampling, input edge in pixels
_MODELS: dict[str, tuple[tuple[StageSpec, ...], Downsampling, int]] = {
    "bhvit_nano": (_NANO, "binary", 32),
    "bhvit_tiny": (_TINY, "binary", 224),
    "bhvit_tiny_fp": (_TINY, "float", 224),
    "bhvit_small": (_SMALL, "binary", 224),
    "bhvit_small_fp": (_SMALL, "float", 224),
}


def list_models() -> list[str]:
    """Names that `create_model` takes, sorted."""
    return sorted(_MODELS)


def model_spec(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    patch: int = 4,
    window: int | tuple[int, int] | None = None,
    shifts: tuple[int, ...] = (3, 5),
) -> ModelSpec:
    """The spec of a model by name, with the given settings.

    img_size is (H, W) in pixels or one edge of a square; None takes the model's usual size. window, in
    tokens, is used by every attention stage; None lets each stage take the one that fits it best.
    Raises UserError for an unknown name (with the nearest right one) or a size that cannot work.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(list_models())}"
        raise UserError(f"no model is called {name!r}{hint}")
    stages, downsample, usual = _MODELS[name]
    if window is not None:
        pair = (window, window) if isinstance(window, int) else window
        stages = tuple(
            dataclasses.replace(stage, window=pair) if stage.mixer == "attention" else stage for stage in stages
        )
    size = usual if img_size is None else img_size
    return ModelSpec(
        name=name,
        img_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        in_chans=in_chans,
        num_classes=num_classes,
        patch=patch,
        stages=stages,
        downsample=downsample,
        shifts=shifts,
    )


def create_model(name: str, *, drop_path: float = 0.0, **settings: Any) -> BHViT:
    """A new, initialised model by name; settings are those of `model_spec`.

    Raises UserError for an unknown name or impossible settings.
    """
    return BHViT(model_spec(name, **settings), drop_path=drop_path)
