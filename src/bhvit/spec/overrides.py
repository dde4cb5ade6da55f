"""The overrides of a spec: settings by name that turn one architecture into its ablations.

An override is a field of `ModelSpec` ("attention"), a field of one stage ("stages.2.mixer"), or a field of
every stage ("mixer"); a setting for one stage takes precedence. The documentation tabulates them from the fields.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .mixers import readers, reads
from .model import NOMINAL_WINDOW, ModelSpec, StageSpec
from .registry import convert_field
from .values import nearest

MODEL_OVERRIDES = (
    "attention",
    "activation",
    "activation_quantizer",
    "branches",
    "centre_conv_weights",
    "decoder_blocks",
    "decoder_channels",
    "decoder_hidden",
    "downsample",
    "float_bits",
    "norm",
    "recu",
    "shifts",
    "stem_activation",
    "stem_kernel",
    "task",
    "weight_quantizer",
)
"""Fields of `ModelSpec` that are overrides; the others (sizes, classes) are arguments of their own."""
EVERY_STAGE = ("mixer", "weight_bits", "activation_bits", "depth", "heads", "key_pool", "window")
"""Fields of `StageSpec` that may be given to all stages at once."""
OVERRIDES = (*MODEL_OVERRIDES, *EVERY_STAGE)
ELSEWHERE: Mapping[str, str] = {
    "leftover_bits": "now called float_bits",
    "regularisation": "a setting of training, which has no part in the model: bhvit train --set regularisation=0.1",
    "num_classes": "not an override: --num-classes, or num_classes= of create_model",
    "img_size": "not an override: --img-size, or img_size= of create_model",
    "channels": "a setting of one stage, stages.0.channels; of images it is in_chans= of create_model",
    **dict.fromkeys(("in_channels", "input_channels", "num_channels"), "called in_chans in create_model"),
    **dict.fromkeys(("image_size", "imgsz", "input_size"), "called img_size in create_model"),
    **dict.fromkeys(("nb_classes", "n_classes", "classes"), "called num_classes in create_model"),
    **dict.fromkeys(("drop_path_rate", "stochastic_depth"), "called drop_path in create_model"),
    **dict.fromkeys(("drop_rate", "dropout"), "not known here: drop_path in create_model is stochastic depth"),
    "global_pool": "an argument of reset_classifier(classes, global_pool)",
    "patch_size": "called patch in create_model",
    "weights": 'not an override: bhvit.load_checkpoint("cifar10") has trained weights',
    "pretrained": 'not an override: bhvit.load_checkpoint("cifar10") has trained weights',
}
"""What people look for among the overrides, and where it is."""
SHIFTS: Mapping[Any, tuple[int, ...]] = {"none": (), "both": (3, 5), 3: (3,), 5: (5,)}
"""Words for sets of shift widths."""

_STAGE = tuple(field.name for field in dataclasses.fields(StageSpec))
_TYPES = typing.get_type_hints(ModelSpec) | typing.get_type_hints(StageSpec)
MAX_STAGES = 64
"""Stages that have names here; each halves the grid, so that no model has as many."""
_HEAD = 64
"""Channels of a head in every published size."""
_UNPOOLED = 14
"""Grids up to this edge keep all their keys in the published BinaryViT."""


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Tables as dotted names: {"stages": {2: {"mixer": "pooling"}}} -> {"stages.2.mixer": "pooling"}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def known(name: str, others: tuple[str, ...] = ()) -> str:
    """`name` if it is an override or one of `others`.

    Raises UserError with the nearest right name.
    """
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "stages" and parts[1] in map(str, range(MAX_STAGES)):
        if parts[2] not in _STAGE:
            raise UserError(f"a stage has no setting {parts[2]!r}{nearest(parts[2], _STAGE)}")
        return name
    if parts[0] == "stages":
        raise UserError(f"there is no setting {name!r}; settings of one stage are written stages.0.mixer")
    if name in ELSEWHERE and name not in others:
        raise UserError(f"{name} is {ELSEWHERE[name]}")
    if name in _STAGE and name not in EVERY_STAGE and name not in others:
        raise UserError(f"{name} is a setting of one stage: stages.0.{name}")
    if name not in OVERRIDES and name not in others:
        raise UserError(f"there is no setting {name!r}{nearest(name, dict.fromkeys((*others, *OVERRIDES)))}")
    return name


def check(name: str, value: Any) -> Any:
    """`value` as the override `name` holds it. Raises UserError for a wrong name or type."""
    field = known(name).rpartition(".")[2]
    if field == "shifts":
        widths = SHIFTS.get(value) if isinstance(value, str | int) else value
        if not isinstance(widths, list | tuple) or not all(type(width) is int for width in widths):
            raise UserError(f"shifts must be none, 3, 5, both or a list of widths, not {value!r}")
        return tuple(widths)
    return convert_field(name, _TYPES[field], value)


def apply(spec: ModelSpec, overrides: Mapping[str, Any]) -> ModelSpec:
    """`spec` with the given overrides, by dotted name (see `flatten`).

    A stage that gets a mixer of another kind gets the published heads and pooling for its size, unless they
    are given. Raises UserError for a wrong name or value, for what cannot work together, and for an override
    that no part of the model reads.
    """
    values = {name: check(name, value) for name, value in overrides.items()}
    for name in values:
        if name.startswith("stages.") and int(name.split(".")[1]) >= len(spec.stages):
            raise UserError(f"{name}: {spec.name} has stages 0 to {len(spec.stages) - 1}")
    stages = tuple(_stage(spec, index, values) for index in range(len(spec.stages)))
    fields = {name: value for name, value in values.items() if name in MODEL_OVERRIDES}
    changed = dataclasses.replace(spec, stages=stages, **fields)
    _check_not_idle(changed, values)
    return changed


def fields_of(spec: ModelSpec) -> dict[str, Any]:
    """Every field of `spec` by the dotted name that an override would have."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return flatten({**fields, "stages": {i: dataclasses.asdict(stage) for i, stage in enumerate(spec.stages)}})


def between(usual: ModelSpec, spec: ModelSpec) -> dict[str, Any]:
    """Return the overrides, by dotted name, that turn `usual` into `spec`.

    Both have the same number of stages, sizes and classes.
    """
    before = fields_of(usual)
    return {
        name: value
        for name, value in fields_of(spec).items()
        if before[name] != value and (name in MODEL_OVERRIDES or name.startswith("stages."))
    }


def value_of(spec: ModelSpec, name: str) -> Any:
    """Return the value of an override in `spec`; one a stage where stages differ."""
    fields = fields_of(spec)
    if name in fields:
        return fields[name]
    values = tuple(getattr(stage, name) for stage in spec.stages)
    return values[0] if len(set(values)) == 1 else values


def _stage(spec: ModelSpec, index: int, values: Mapping[str, Any]) -> StageSpec:
    stage = spec.stages[index]
    own = {name.rpartition(".")[2]: v for name, v in values.items() if name.startswith(f"stages.{index}.")}
    mixer = own.get("mixer", values.get("mixer", stage.mixer))
    # A setting for all stages applies to those that use it; one for a stage applies to that stage.
    shared = {n: values[n] for n in EVERY_STAGE if n in values and reads(mixer, n)}
    if mixer != stage.mixer:
        channels = own.get("channels", stage.channels)
        shared.setdefault("window", None)
        if stage.mixer not in readers("heads"):
            shared.setdefault("heads", channels // _HEAD if channels % _HEAD == 0 else 1)
        if mixer in readers("key_pool"):
            shared.setdefault("key_pool", _key_pool(*spec.grid(index)))
    try:
        return dataclasses.replace(stage, **(shared | own))
    except UserError as error:
        raise UserError(f"stage {index} of {spec.name}: {error}") from None


def _key_pool(height: int, width: int) -> int:
    """Choose the pooling of keys for a grid, in tokens.

    1 on small grids, else the common divisor of the edges that leaves a grid of keys nearest to 7.
    """
    if max(height, width) <= _UNPOOLED:
        return 1
    common = math.gcd(height, width)
    divisors = [d for d in range(1, common + 1) if common % d == 0]
    return min(divisors, key=lambda d: abs(math.log(max(height, width) / d / NOMINAL_WINDOW)))


def _check_not_idle(spec: ModelSpec, values: Mapping[str, Any]) -> None:
    """Raises UserError for an override that changes nothing: an experiment with it would show nothing."""
    for name in values:
        field = name.rpartition(".")[2]
        stages = [spec.stages[int(name.split(".")[1])]] if "." in name else spec.stages
        if readers(field) and not any(reads(stage.mixer, field) for stage in stages):
            raise UserError(f"{name} has no effect: no such stage has the mixer {' or '.join(readers(field))}")
        quantised = any(reads(stage.mixer, "heads") and stage.activation_bits == 1 for stage in stages)
        if field == "attention" and not quantised:
            raise UserError("attention has no effect: no stage has an attention mixer and activation_bits 1")
        if field.startswith("decoder_") and spec.task != "segment":
            raise UserError(f"{field} has no effect: only a model with task=segment has a decoder")
        if field == "downsample" and len(spec.stages) == 1:
            raise UserError("downsample has no effect: the model has a single stage")
        if field == "branches" and not spec.shifts:
            raise UserError("branches has no effect: shifts is none")
        if field in ("recu", "weight_quantizer") and all(stage.weight_bits != 1 for stage in stages):
            raise UserError(f"{field} has no effect: no stage has weight_bits 1")
        if field == "activation_quantizer" and all(stage.activation_bits != 1 for stage in stages):
            raise UserError("activation_quantizer has no effect: no stage has activation_bits 1")
        if field in ("recu", "centre_conv_weights") and spec.weight_quantizer != "sign":
            raise UserError(f"{field} has no effect: weight_quantizer {spec.weight_quantizer} decides")
