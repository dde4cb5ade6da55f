"""`TrainConfig`: every setting of a training run.

Settings stand next to the overrides of the model's spec (`bhvit.spec.overrides`); what a later phase changes is
written "phases.1.lr", so that a run is one flat list. The same settings, seed and thread count give the same weights,
bit for bit, on a CPU. The documentation tabulates them from the fields.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ..errors import UserError
from ..spec import overrides as spec_overrides
from ..spec import values
from ..spec.meant import meant
from ..spec.values import convert
from ..system import MAX_THREADS
from .settings import (
    BatchSettings,
    DataSettings,
    EmaSettings,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    TeacherSettings,
    is_outputs_file,
)

Precision = Literal["auto", "float32", "bfloat16"]
Start = Literal["best", "last"]
Switch: TypeAlias = bool | Literal["auto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(
    TeacherSettings, LossSettings, BatchSettings, EmaSettings, OptimizerSettings, ModelSettings, DataSettings
):
    """Settings of a run. Raises UserError for values that cannot work."""

    out: str
    """Folder of the run: checkpoints, log and settings go there."""
    init: str | None = None
    """A checkpoint to start from. Classes, image size and bits may be others: the classifier is then new,
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
    threads: int = 0
    """CPU threads of PyTorch; 0: its own choice, at most the cores that this process may use."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, below `out`."""
    wandb: bool = False
    """Send the log to Weights & Biases too; WANDB_PROJECT, WANDB_MODE and the like say where to."""
    compile: Switch = "auto"
    """Compile the blocks with `torch.compile` before training: a minute or more of waiting for faster steps. Where it
    fails a warning says why, and training goes on without. auto compiles on a GPU if the run is long enough."""
    graphs: Switch = "auto"
    """Hold a whole step in a CUDA graph, which costs Python's time once instead of in every step; auto does so on a GPU
    in one process. On a CPU true computes the same step without a graph."""
    save_minutes: float = 10.0
    """Time between checkpoints within an epoch; every epoch's end has one anyway."""

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
            "decay_rate",
            "patience",
            "dice",
            "lovasz",
        ):
            _at_least(self, name, 0)
        for name in ("threads", "workers"):
            if getattr(self, name) > MAX_THREADS:
                raise UserError(f"{name} must be at most {MAX_THREADS}, not {getattr(self, name)}")
        self._check_task()
        for name in ("label_smoothing", "drop_path", "zoom", "colour", "shift", "ema", "erase", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("crop", "scale_min", "layer_decay", "lr"):
            if not 0 < getattr(self, name) < float("inf") or (name != "lr" and getattr(self, name) > 1):
                raise UserError(
                    f"{name} must be above 0{'' if name == 'lr' else ' and at most 1'}, not {getattr(self, name)}"
                )
        if not all(0 <= beta < 1 for beta in self.opt_betas):
            raise UserError(f"opt_betas must be at least 0 and below 1, not {list(self.opt_betas)}")
        if self.opt_eps is not None and not 0 < self.opt_eps < float("inf"):
            raise UserError(f"opt_eps must be above 0, not {self.opt_eps}")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction must lie between 0 and 1, not {self.test_fraction}")
        for name in ("distillation", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.label_weight is not None:
            _at_least(self, "label_weight", 0)
            if not self._has_teacher:
                raise UserError("label_weight has no effect without a teacher")
        if self.teacher_outputs is not None and not self._has_teacher:
            raise UserError("teacher_outputs has no effect without a teacher")
        if self.teacher is not None and (self.teacher_outputs is not None or is_outputs_file(self.teacher)):
            heavy = [name for name in ("rand_augment", "erase", "mixup", "cutmix") if getattr(self, name)]
            if heavy or self.augment == "resized-crop":
                what = heavy[0] if heavy else "augment=resized-crop"
                name = "teacher_outputs" if self.teacher_outputs is not None else "the outputs of a teacher in a file"
                raise UserError(f"{name} are of images as they are, which {what} changes: leave one of them out")
        if self.rand_augment > 30:
            raise UserError(f"rand_augment must be at most 30, not {self.rand_augment}")
        if self.batch_size // self.accumulate < 2:
            raise UserError(
                f"a batch of {self.batch_size} in {self.accumulate} parts is less than 2 images a part: "
                "batch norm needs more than one"
                if self.accumulate > 1
                else "batch_size must be at least 2: batch norm needs more than one image"
            )
        if not 0 < self.decay_epochs < float("inf"):
            raise UserError(f"decay_epochs must be above 0, not {self.decay_epochs}")
        if (self.sched == "multistep") != bool(self.decay_milestones):
            raise UserError("sched=multistep and decay_milestones=[…], the epochs at which lr decays, go together")
        if (
            list(self.decay_milestones) != sorted(set(self.decay_milestones))
            or min(self.decay_milestones, default=1) < 1
        ):
            raise UserError(f"decay_milestones must be rising epochs from 1, not {list(self.decay_milestones)}")
        if not self.save_minutes > 0:  # NaN too
            raise UserError(f"save_minutes must be above 0, not {self.save_minutes}")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"warmup_epochs ({self.warmup_epochs}) is more than epochs ({self.epochs})")
        object.__setattr__(self, "phases", tuple(spec_overrides.flatten(phase) for phase in self.phases))
        if self.phases and (self.patience or any("patience" in phase for phase in self.phases)):
            raise UserError("patience ends a run early, which a run of phases cannot: leave one of them out")
        self.phase_configs()

    @property
    def _has_teacher(self) -> bool:
        """Whether the run, or one of its phases, has a teacher."""
        return self.teacher is not None or any("teacher" in phase for phase in self.phases)

    def _check_task(self) -> None:
        """Raises UserError for settings that have no effect on the task."""
        if self.task == "classify":
            segment: dict[str, Any] = {"ignore": None, "foreground": (), "include_validation": False}
            segment |= {"dice": 0.0, "lovasz": 0.0, "colour": 0.0}
            idle = [name for name, value in segment.items() if getattr(self, name) != value]
            if self.augment == "scale-crop":
                idle.append("augment=scale-crop")
            if idle:
                raise UserError(f"{idle[0]} has no effect: it is for images with masks, --task segment")
            return
        if self.augment not in ("none", "scale-crop"):
            raise UserError(f"augment={self.augment} knows no masks: with --task segment use scale-crop or none")
        classify: dict[str, Any] = {
            "rand_augment": 0,
            "erase": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
            "repeats": 1,
            "teacher_outputs": None,
        }
        classify |= {"crop": 1.0, "draft": 0.0}
        if changed := [name for name, value in classify.items() if getattr(self, name) != value]:
            raise UserError(f"{changed[0]} has no meaning for masks: leave it out with --task segment")
        if self.teacher is not None and is_outputs_file(self.teacher):
            raise UserError("a file of a teacher's outputs is of whole images: with --task segment give a checkpoint")

    def phase_configs(self) -> list[TrainConfig]:
        """Return the settings of each phase; just these, in a run without phases.

        Raises UserError if a phase cannot work.
        """
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
        """Return the settings for JSON, one flat table with overrides and phases.

        Tuples become lists.
        """
        values = {name: vars(self)[name] for name in FIELDS} | dict(self.overrides)
        if phases:
            values |= {
                f"phases.{i}.{name}": value for i, phase in enumerate(self.phases) for name, value in phase.items()
            }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Make the config of settings and overrides by name.

        Raises UserError for an unknown name (with the nearest), type or value.
        """
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


FIELDS = tuple(
    field.name
    for field in sorted(dataclasses.fields(TrainConfig), key=lambda field: field.default is not dataclasses.MISSING)
    if field.name not in ("overrides", "phases")
)
"""Names of the training settings, those without a default first."""
MACHINE = (
    "out",
    "device",
    "threads",
    "tensorboard",
    "wandb",
    "compile",
    "graphs",
    "workers",
    "cache_mb",
    "save_minutes",
)
"""Settings that a resumed run may change: where and how it runs, not what it computes."""
WHOLE_RUN = (
    *MACHINE,
    "data",
    "model",
    "task",
    "ignore",
    "foreground",
    "include_validation",
    "img_size",
    "channels",
    "patch",
    "window",
    "crop",
    "interpolation",
    "draft",
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
    """Return `name` if it is a setting or override of the run or a phase.

    Raises UserError with the nearest right one.
    """
    parts = name.split(".", 2)
    if parts[0] == "phases":
        if len(parts) < 3 or parts[1] not in map(str, range(MAX_PHASES)):
            raise UserError(f"there is no setting {name!r}; settings of one phase are written phases.0.lr")
        known(parts[2])
        return name
    hint = meant(name, str, (*FIELDS, *spec_overrides.OVERRIDES))
    if hint is not None:
        raise UserError(f"there is no setting {name!r}{hint}")
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
