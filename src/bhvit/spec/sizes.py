"""Model sizes by name, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .model import ModelSpec, StageSpec
from .overrides import apply, flatten
from .values import convert, nearest


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

_SCENE = (
    StageSpec(depth=2, channels=128, hidden=256, mixer="conv"),
    StageSpec(depth=3, channels=256, hidden=512, mixer="attention", heads=4),
)

_BINARYVIT_SMALL = tuple(
    StageSpec(depth=d, channels=c, hidden=f, mixer="pooled_attention", heads=c // 64, key_pool=pool)
    for d, c, f, pool in zip((3, 4, 8, 4), (64, 128, 256, 512), (512, 1024, 1024, 2048), (8, 4, 1, 1))
)
_BINARYVIT: dict[str, Any] = {
    "branches": "pool",
    "stem_activation": "none",
    "attention": "one_bit",
    "centre_conv_weights": False,
}

# name: input edge (or height and width) in pixels, and the fields of the spec that make the model
_MODELS: dict[str, tuple[int | tuple[int, int], dict[str, Any]]] = {
    "bhvit_nano": (32, {"stages": _NANO}),
    "bhvit_tiny": (224, {"stages": _TINY}),
    "bhvit_tiny_fp": (224, {"stages": _TINY, "downsample": "float"}),
    "bhvit_scene": ((240, 320), {"stages": _SCENE}),
    "bhvit_small": (224, {"stages": _SMALL}),
    "bhvit_small_fp": (224, {"stages": _SMALL, "downsample": "float"}),
    "binaryvit_small": (224, {"stages": _BINARYVIT_SMALL, **_BINARYVIT}),
    "binaryvit_small_fp": (224, {"stages": _BINARYVIT_SMALL, **_BINARYVIT, "downsample": "float"}),
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
    stages: tuple[StageSpec, ...] | Mapping[Any, Mapping[str, Any]] | None = None,
    **overrides: Any,
) -> ModelSpec:
    """The spec of a model by name, with the given settings.

    img_size is (H, W) in pixels or one edge of a square; None takes the model's usual size. Overrides are
    those of `bhvit.spec.overrides`: fields of `ModelSpec`, or of `StageSpec` for every stage that uses them, such
    as window (None: each stage takes what fits it best). stages={2: {"mixer": "pooling"}}, or the override
    "stages.2.mixer", changes one stage; a tuple of `StageSpec` replaces them all.
    Raises UserError for an unknown name (with the nearest right one), a size that cannot work, or overrides
    that do not go together.
    """
    if name not in _MODELS:
        raise UserError(f"no model is called {name!r}{nearest(name, list_models())}")
    usual, fields = _MODELS[name]
    if isinstance(stages, Mapping):
        overrides = {**overrides, **flatten({"stages": stages})}
    elif stages is not None:
        if not isinstance(stages, tuple) or not all(isinstance(stage, StageSpec) for stage in stages):
            raise UserError(
                f'stages must be a tuple of StageSpec or such as {{2: {{"mixer": "pooling"}}}}, not {stages!r}'
            )
        fields = {**fields, "stages": stages}
    for setting, value in (("num_classes", num_classes), ("in_chans", in_chans), ("patch", patch)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{setting} must be a whole number, not {value!r}")
    size = usual if img_size is None else img_size
    spec = ModelSpec(
        name=name,
        img_size=convert("img_size", tuple[int, int], size),
        in_chans=in_chans,
        num_classes=num_classes,
        patch=patch,
        **fields,
    )
    return apply(spec, {name: value for name, value in overrides.items() if (name, value) != ("window", None)})
