"""`TrainConfig`: every setting of a training run, and the recipes that give them values.

A recipe is a TOML file whose keys are the fields of `TrainConfig` and the switches of the model's spec
(`bhvit.switches`); settings given by the caller come after it. The same settings, seed and thread count
give the same weights, bit for bit, on a CPU.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .. import settings, switches
from ..errors import UserError
from ..settings import convert, nearest, tomllib

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
    switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Switches of the model's spec by dotted name, see `bhvit.switches`. Where settings are given by name (recipes,
    the command line, `from_dict`) they stand beside the other settings, as "attention" or "stages.0.mixer"."""
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
        flat = switches.flatten(self.switches)
        object.__setattr__(self, "switches", {name: switches.check(name, flat[name]) for name in sorted(flat)})
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
        """The settings as JSON holds them: tuples become lists, switches stand beside the others."""
        values = {name: value for name, value in vars(self).items() if name != "switches"} | dict(self.switches)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings and switches by name. Raises UserError for an unknown name (with the nearest), type or value."""
        types_ = typing.get_type_hints(cls)
        checked: dict[str, Any] = {"switches": {}}
        for name, value in switches.flatten(values).items():
            if known(name) in FIELDS:
                checked[name] = convert(name, types_[name], value)
            else:
                checked["switches"][name] = value
        for field in dataclasses.fields(cls):
            missing = field.default is field.default_factory is dataclasses.MISSING
            if field.name not in checked and missing:
                raise UserError(f"the setting {field.name} is missing")
        return cls(**checked)

    def model_settings(self) -> dict[str, Any]:
        """What `models.model_spec` takes of the settings."""
        return {
            "img_size": self.img_size,
            "in_chans": self.channels,
            "patch": self.patch,
            "window": self.window,
            **self.switches,
        }


FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name != "switches")
"""Names of the training settings."""
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
        raise UserError(f"there is no recipe {name!r}{nearest(name, recipe_names())}")
    toml = tomllib()
    try:
        values = switches.flatten(toml.loads(text))
    except toml.TOMLDecodeError as error:
        raise UserError(f"the recipe {name} is not TOML: {error}") from None
    values.pop("description", None)
    for key in values:
        known(key)
    return values


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "key=value", of a training setting or a switch. Raises UserError."""
    return settings.parse_setting(text, known)


def known(name: str) -> str:
    """`name` if it is a setting or a switch. Raises UserError with the nearest right one."""
    return switches.known(name, FIELDS)


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if not least <= value < float("inf"):
        raise UserError(f"{name} must be at least {least}, not {value}")
