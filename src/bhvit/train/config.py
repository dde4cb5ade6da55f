"""`TrainConfig`: every setting of a training run.

Settings stand next to the overrides of the model's spec (`bhvit.spec.overrides`); what a later phase changes is
written "phases.1.lr", so that a run is one flat list. The same settings, seed and thread count give the same weights,
bit for bit, on a CPU. The documentation tabulates them from the fields.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import UserError
from ..spec import overrides as spec_overrides
from ..spec import values
from ..spec.values import convert

Augment = Literal["none", "shift", "resized-crop"]
Precision = Literal["auto", "float32", "bfloat16"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Start = Literal["best", "last"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run. Raises UserError for values that cannot work."""

    data: str
    """What to train on: digits, cifar10, cifar100, a folder, parquet or WebDataset files, an archive (see `data`)."""
    model: str
    """A name from `list_models()`."""
    out: str
    """Folder of the run: checkpoints, log and settings go there."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 128
    """Images of an optimiser step, over all processes; incomplete last batches are dropped."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other, for less memory: gradients are summed, batch
    statistics are those of each part."""
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
    layer_decay: float = 1.0
    """Factor of the learning rate from each block to the one before it, for models that were trained before (BEiT,
    Bao et al., ICLR 2022; timm's groups); 1: the same rate everywhere."""
    ema: float = 0.0
    """Decay a step of the weights' moving average, which is then the model that is evaluated and saved; it rises to
    that from 0 as timm's `ModelEmaV3` does. 0 keeps no average."""
    ema_batches: int = 20
    """With `ema`: training batches over which the batch norms' statistics of the averaged model are measured after an
    epoch. Averaged weights have other signs, so that averaged statistics would not be theirs."""
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
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Overrides of the model's spec by dotted name, see `bhvit.spec.overrides`. Where settings are given by name
    (recipes, the command line, `from_dict`) they stand next to the other settings: "attention", "stages.0.mixer"."""
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
    rand_augment: int = 0
    """Magnitude, 1 to 30, of two operations an image that RandAugment chooses (Cubuk et al., NeurIPS 2020;
    torchvision's); 0: none."""
    erase: float = 0.0
    """Probability of random erasing (Zhong et al., AAAI 2020): a rectangle of the image becomes its mean colour."""
    mixup: float = 0.0
    """Mixup (Zhang et al., ICLR 2018; timm's): both parameters of the beta distribution of the ratio. 0: none. Of
    `mixup` and `cutmix` together, each batch takes one at random."""
    cutmix: float = 0.0
    """CutMix (Yun et al., ICCV 2019; timm's), likewise."""
    repeats: int = 1
    """Repeated augmentation (Hoffer et al., CVPR 2020): how often each image comes in a batch, augmented anew. An epoch
    has as many batches as ever, so fewer different images."""

    teacher: str | None = None
    """Learn from the soft outputs of this model: a checkpoint (.safetensors) or a timm name."""
    teacher_file: str | None = None
    """Weights of a timm teacher on the disk, instead of downloading them."""
    teacher_outputs: str | None = None
    """Folder to keep the teacher's outputs in, computed once for each image as it is and read by later runs with the
    same teacher and images: for augmentation `none` or `shift`, without mixing, erasing or RandAugment."""
    distillation: float = 0.9
    """With a teacher: the weight of its soft outputs in the loss."""
    label_weight: float | None = None
    """With a teacher: the weight of the labels; None gives them what `distillation` leaves of 1."""
    regularisation: float = 0.0
    """Weight of the regularisation loss, mean ||w| - 1| of the latent binary weights (BHViT, Gao et al., CVPR 2025)."""
    dampening: float = 0.0
    """Weight of oscillation dampening (Nagel et al., ICML 2022): the sum over latent weights of the squared distance
    to their binary value, for those inside the grid of two values; it rises along a cosine from 0."""
    init: str | None = None
    """A checkpoint to start from. Classes, image size and bits may be others: the classifier is then drawn anew,
    position maps are interpolated, weights become latent weights."""
    start: Start = "best"
    """Which model of the phase before a later phase starts from."""
    phases: tuple[Mapping[str, Any], ...] = ()
    """Phases that follow each other, each as the settings it changes; `epochs` and the learning rate are a phase's
    own. Given by name as "phases.1.lr", in a recipe as tables [[phases]]."""

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """float32, or bfloat16 autocast; auto is bfloat16 on a GPU and float32 on a CPU."""
    seed: int = 0
    """Of initial weights, order of images and augmentation."""
    threads: int = 0
    """CPU threads of PyTorch; 0 leaves its own choice."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, below `out`."""
    compile: bool = False
    """Compile the blocks with `torch.compile` before training: minutes of waiting for faster steps. Where it fails a
    warning says why, and training goes on without."""
    workers: int = -1
    """Processes that decode images where these do not fit in memory; -1: one a core."""
    cache_mb: int = 2048
    """Decoded images are kept in memory if they need no more than this many MiB."""
    save_minutes: float = 10.0
    """Time between checkpoints within an epoch; every epoch's end has one anyway."""
    test_fraction: float | None = None
    """Share of the training images held out for validation where the data has no validation split; None: 0.2, or 0.1 if
    it has a test split."""
    classes: str | None = None
    """File of class names, a line each, for parquet labels without names and for shards."""
    strict: bool = False
    """Refuse damaged images instead of skipping them."""

    def __post_init__(self) -> None:
        flat = spec_overrides.flatten(self.overrides)
        object.__setattr__(self, "overrides", {name: spec_overrides.check(name, flat[name]) for name in sorted(flat)})
        for name in ("epochs", "batch_size", "channels", "patch", "accumulate", "ema_batches", "repeats"):
            _at_least(self, name, 1)
        for name in (
            "min_lr",
            "warmup_epochs",
            "weight_decay",
            "clip_grad",
            "regularisation",
            "rotate",
            "threads",
            "cache_mb",
            "seed",
            "dampening",
            "rand_augment",
            "mixup",
            "cutmix",
        ):
            _at_least(self, name, 0)
        for name in ("label_smoothing", "drop_path", "zoom", "shift", "ema", "erase"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("crop", "scale_min", "layer_decay", "lr"):
            if not 0 < getattr(self, name) < float("inf") or (name != "lr" and getattr(self, name) > 1):
                raise UserError(
                    f"{name} must be above 0{'' if name == 'lr' else ' and at most 1'}, not {getattr(self, name)}"
                )
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}")
        if not 0 <= self.distillation <= 1:
            raise UserError(f"distillation must lie between 0 and 1, not {self.distillation}")
        if self.label_weight is not None:
            _at_least(self, "label_weight", 0)
            if self.teacher is None and not any("teacher" in phase for phase in self.phases):
                raise UserError("label_weight has no effect without a teacher")
        if self.teacher_outputs is not None:
            if self.teacher is None and not any("teacher" in phase for phase in self.phases):
                raise UserError("teacher_outputs has no effect without a teacher")
            heavy = [name for name in ("rand_augment", "erase", "mixup", "cutmix") if getattr(self, name)]
            if self.teacher is not None and (heavy or self.augment == "resized-crop"):
                what = heavy[0] if heavy else "augment=resized-crop"
                raise UserError(
                    f"teacher_outputs are of images as they are, which {what} changes: leave one of them out"
                )
        if self.rand_augment > 30:
            raise UserError(f"rand_augment must be at most 30, not {self.rand_augment}")
        if self.batch_size // self.accumulate < 2:
            raise UserError(
                f"a batch of {self.batch_size} in {self.accumulate} parts is less than 2 images a part: "
                "batch norm needs more than one"
                if self.accumulate > 1
                else "batch_size must be at least 2: batch norm needs more than one image"
            )
        if self.save_minutes <= 0:
            raise UserError(f"save_minutes must be above 0, not {self.save_minutes}")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs ({self.warmup_epochs}) is more than epochs ({self.epochs})")
        object.__setattr__(self, "phases", tuple(spec_overrides.flatten(phase) for phase in self.phases))
        self.phase_configs()

    @property
    def mixing(self) -> bool:
        """Whether images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def phase_configs(self) -> list[TrainConfig]:
        """The settings of each phase; of a run without phases, these. Raises UserError if a phase cannot work."""
        if not self.phases:
            return [self]
        shared = {**self.to_dict(phases=False), "init": None}
        configs = []
        for index, phase in enumerate(self.phases):
            for name in phase:
                if known(name) in WHOLE_RUN:
                    raise UserError(f"phases.{index}.{name}: {name} is a setting of the whole run")
            first = {"init": self.init} if index == 0 else {}
            merged = {**shared, **first, **phase}
            if merged["teacher"] is None:  # what the run says of its teachers is nothing to a phase without one
                merged |= {name: phase.get(name) for name in ("label_weight", "teacher_outputs")}
            try:
                configs.append(TrainConfig.from_dict(merged))
            except UserError as error:
                raise UserError(f"phases.{index}: {error}") from None
        return configs

    def to_dict(self, phases: bool = True) -> dict[str, Any]:
        """The settings as JSON holds them: tuples become lists, overrides and phases stand next to the others."""
        values = {name: vars(self)[name] for name in FIELDS} | dict(self.overrides)
        if phases:
            values |= {
                f"phases.{i}.{name}": value for i, phase in enumerate(self.phases) for name, value in phase.items()
            }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings and overrides by name. Raises UserError for an unknown name (with the nearest), type or value."""
        types_ = typing.get_type_hints(cls)
        checked: dict[str, Any] = {"overrides": {}}
        phases: dict[int, dict[str, Any]] = {}
        for name, value in flatten(values).items():
            if known(name).startswith("phases."):
                _, index, setting = name.split(".", 2)
                kind = types_.get(setting)
                phases.setdefault(int(index), {})[setting] = convert(name, kind, value) if kind else value
            elif name in FIELDS:
                checked[name] = convert(name, types_[name], value)
            else:
                checked["overrides"][name] = value
        for field in dataclasses.fields(cls):
            missing = field.default is field.default_factory is dataclasses.MISSING
            if field.name not in checked and missing:
                raise UserError(f"the setting {field.name} is missing")
        return cls(**checked, phases=tuple(phases.get(index, {}) for index in range(max(phases, default=-1) + 1)))

    def model_settings(self) -> dict[str, Any]:
        """What `models.model_spec` takes of the settings."""
        return {
            "img_size": self.img_size,
            "in_chans": self.channels,
            "patch": self.patch,
            "window": self.window,
            **self.overrides,
        }


FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name not in ("overrides", "phases"))
"""Names of the training settings."""
MACHINE = ("out", "device", "threads", "tensorboard", "compile", "workers", "cache_mb", "save_minutes")
"""Settings that a resumed run may change: where and how it runs, not what it computes."""
WHOLE_RUN = (
    *MACHINE,
    "data",
    "model",
    "img_size",
    "channels",
    "patch",
    "window",
    "crop",
    "interpolation",
    "init",
    "precision",
    "seed",
    "test_fraction",
    "classes",
    "strict",
)
"""Settings that all phases of a run share."""
MAX_PHASES = 64


def parse_setting(text: str) -> tuple[str, Any]:
    """Split "key=value", of a training setting or an override. Raises UserError."""
    return values.parse_setting(text, known)


def known(name: str) -> str:
    """`name` if it is a setting or override, of the run or of a phase. Raises UserError with the nearest right one."""
    parts = name.split(".", 2)
    if parts[0] == "phases":
        if len(parts) < 3 or parts[1] not in map(str, range(MAX_PHASES)):
            raise UserError(f"there is no setting {name!r}; settings of one phase are written phases.0.lr")
        spec_overrides.known(parts[2], FIELDS)
        return name
    return spec_overrides.known(name, FIELDS)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, as `bhvit.spec.overrides.flatten` has them; a list of phases becomes "phases.0.lr"."""
    phases = values.get("phases")
    if isinstance(phases, list | tuple):
        if not all(isinstance(phase, Mapping) for phase in phases):
            raise UserError("phases must be tables of settings: [[phases]] in a recipe")
        values = {**values, "phases": dict(enumerate(phases))}
    return spec_overrides.flatten(values)


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if not least <= value < float("inf"):
        raise UserError(f"{name} must be at least {least}, not {value}")
