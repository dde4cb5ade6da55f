"""`TrainConfig`: every setting of a training run, and the recipes that give them values.

A recipe is a TOML file whose keys are the fields of `TrainConfig`; settings given by the caller come
after it. The same settings, seed and thread count give the same weights, bit for bit, on a CPU.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.resources
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError, require_extra

try:
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
except ModuleNotFoundError:
    raise require_extra("tomli", "train") from None

Augment = Literal["none", "shift", "resized-crop"]
Precision = Literal["auto", "float32", "bfloat16"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run. Raises UserError for values that cannot work."""

    data: str
    """What to train on: digits, cifar10, cifar100, a folder, a parquet file or an archive (see `data`)."""
    model: str
    """A name from `list_models()`."""
    out: str
    """Folder of the run: checkpoints, log and settings go there."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step; what does not fill a last batch waits for the next epoch's shuffle."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from 0 to its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and convolutions; vectors (norms, scales, biases) have none."""
    clip_grad: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block."""

    img_size: tuple[int, int] | None = None
    """Height and width in pixels; None takes the model's usual size."""
    channels: int = 3
    """1 trains on greyscale, 3 on RGB."""
    patch: int = 4
    """Edge of the stem's patches in pixels."""
    window: tuple[int, int] | None = None
    """Attention window in tokens; None chooses one that fits."""
    crop: float = 1.0
    """Fraction of the resized image that evaluation's centre crop keeps (ImageNet: 0.875)."""
    interpolation: Interpolation = "bicubic"
    """How images are resized."""

    augment: Augment = "shift"
    """none; shift: the whole image moved, turned and scaled a little (small images); resized-crop:
    a random part of the image, resized (photographs)."""
    shift: float = 0.125
    """Largest move of `shift`, as a fraction of the edge, along H and along W."""
    rotate: float = 0.0
    """Largest turn of `shift` in degrees, either way."""
    zoom: float = 0.0
    """Largest change of scale of `shift`: 0.1 is 0.9 to 1.1 times."""
    scale_min: float = 0.08
    """Smallest part of the area that `resized-crop` takes."""
    flip: bool = True
    """Mirror half of the images left to right. Not for text or digits."""

    teacher: str | None = None
    """Learn from the soft outputs of this model: a checkpoint (.safetensors) or a timm name."""
    teacher_file: str | None = None
    """Weights of a timm teacher on the disk, instead of downloading them."""
    distillation: float = 0.9
    """With a teacher: its share of the loss; the labels have the rest."""
    regularisation: float = 0.0
    """Weight of the regularisation loss, mean ||w| - 1| of the latent binary weights."""
    init: str | None = None
    """A checkpoint of the same architecture whose weights to start from."""

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """float32, or bfloat16 autocast; auto is bfloat16 on a GPU and float32 on a CPU."""
    seed: int = 0
    """Of initial weights, order of images and augmentation."""
    threads: int = 0
    """CPU threads of PyTorch; 0 leaves its own choice."""
    workers: int = -1
    """Processes that decode images where these do not fit in memory; -1: one a core."""
    cache_mb: int = 2048
    """Decoded images are kept in memory if they need no more than this many MiB."""
    save_minutes: float = 10.0
    """Time between checkpoints within an epoch; every epoch's end has one anyway."""
    test_fraction: float = 0.2
    """Share of the images held out where the data has no split of its own."""
    classes: str | None = None
    """File of class names, a line each, for parquet labels without names."""
    strict: bool = False
    """Refuse damaged images instead of skipping them."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "channels", "patch"):
            _at_least(self, name, 1)
        for name in ("min_lr", "warmup_epochs", "weight_decay", "clip_grad", "regularisation", "rotate", "threads",
                     "cache_mb", "seed"):  # fmt: skip
            _at_least(self, name, 0)
        for name in ("label_smoothing", "drop_path", "zoom", "shift"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("crop", "scale_min", "lr"):
            if not 0 < getattr(self, name) < float("inf") or (name != "lr" and getattr(self, name) > 1):
                raise UserError(f"{name} must be above 0{'' if name == 'lr' else ' and at most 1'}, "
                                f"not {getattr(self, name)}")  # fmt: skip
        if not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}")
        if not 0 <= self.distillation <= 1:
            raise UserError(f"distillation must lie between 0 and 1, not {self.distillation}")
        if self.batch_size < 2:
            raise UserError("batch_size must be at least 2: batch norm needs more than one image")
        if self.save_minutes <= 0:
            raise UserError(f"save_minutes must be above 0, not {self.save_minutes}")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs ({self.warmup_epochs}) is more than epochs ({self.epochs})")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them (tuples become lists)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings by name. Raises UserError for an unknown name (with the nearest), type or value."""
        types_ = typing.get_type_hints(cls)
        checked = {name: _convert(name, types_[_known(name)], value) for name, value in values.items()}
        for field in dataclasses.fields(cls):
            if field.name not in checked and field.default is dataclasses.MISSING:
                raise UserError(f"the setting {field.name} is missing")
        return cls(**checked)


MACHINE = ("out", "device", "threads", "workers", "cache_mb", "save_minutes")
"""Settings that a resumed run may change: where and how it runs, not what it computes."""


def recipe_names() -> list[str]:
    """Names that `load_recipe` knows, sorted."""
    folder = importlib.resources.files(__package__) / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def default_recipe(data: str) -> str:
    """The recipe for a data source where none is named."""
    return "digits" if data == "digits" else "small"


def load_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by name or as the path of a TOML file.

    Raises UserError if there is none, or it is not TOML, or has an unknown key.
    """
    if name in recipe_names():
        text = (importlib.resources.files(__package__) / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {name}: {error}") from None
    else:
        raise UserError(f"there is no recipe {name!r}{_nearest(name, recipe_names())}")
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe {name} is not TOML: {error}") from None
    values.pop("description", None)
    for key in values:
        _known(key)
    return values


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "key=value": the value is what TOML makes of it, or else a string. Raises UserError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes key=value, not {text!r}")
    name = _known(name.strip())
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value.strip()


def parse_size(text: str) -> tuple[int, int]:
    """A size, "224" or "192x256", as (H, W). Raises UserError."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"a size is a number of pixels or HEIGHTxWIDTH, not {text!r}")
    return int(parts[0]), int(parts[-1])


def _known(name: str) -> str:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    if name not in names:
        raise UserError(f"there is no setting {name!r}{_nearest(name, names)}")
    return name


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}"


def _convert(name: str, kind: Any, value: Any) -> Any:
    """`value` as the type of the field `name`; whole numbers serve as float, one number as a square size."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if typing.get_origin(option) is tuple:
            if isinstance(value, str):
                value = parse_size(value)
            pair = (value, value) if _is_int(value) else value
            if isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_int(edge) for edge in pair):
                return tuple(pair)
        if option is float and (_is_int(value) or isinstance(value, float)):
            return float(value)
        if (option is int and _is_int(value)) or (option in (str, bool) and isinstance(value, option)):
            return value
    wanted = " or ".join(_type_name(option) for option in options)
    raise UserError(f"{name} must be {wanted}, not {value!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(kind, "a size (H, W)")


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if not least <= value < float("inf"):
        raise UserError(f"{name} must be at least {least}, not {value}")
