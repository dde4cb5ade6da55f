"""Our models in timm's registry: importing this module registers every name of `list_models`.

`timm.create_model(name, num_classes=…, img_size=…, in_chans=…, drop_path_rate=…, features_only=…)` then makes them.
We publish no weights, so `pretrained=True` is refused by timm, unless `pretrained_cfg_overlay` names a file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from ..errors import UserError
from ..image import IMAGENET_MEAN, IMAGENET_STD
from ..models.base.backbone import Backbone
from ..models.registry import create_model
from ..spec.sizes import list_models, model_spec

default_cfgs: dict[str, dict[str, Any]] = {}
"""What timm knows of each model before it is made; `register_model` looks here."""


def _create(
    name: str,
    *,
    num_classes: int = 1000,
    drop_path_rate: float = 0.0,
    drop_rate: float = 0.0,
    global_pool: str = "avg",
    **settings: Any,
) -> Backbone:
    """A model from settings with timm's names; the others are those of `model_spec`.

    Raises UserError for dropout before the classifier, which these models lack, or impossible settings.
    """
    if drop_rate:
        raise UserError(f"{name} has no dropout: drop_rate must be 0, not {drop_rate}; drop_path_rate works")
    model = create_model(name, drop_path=drop_path_rate, num_classes=num_classes or 1, **settings)
    if not num_classes or global_pool != "avg":
        model.reset_classifier(num_classes, global_pool)
    return model


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    stages = len(model_spec(name).stages)

    def entrypoint(pretrained: bool = False, **settings: Any) -> nn.Module:
        features = {"out_indices": tuple(range(stages)), "feature_cls": "getter"}
        # Transforms made from it (timm.data.resolve_model_data_config) then fit this model, not the usual size.
        spec = model_spec(name, **{key: settings[key] for key in ("img_size", "in_chans", "patch") if key in settings})
        overlay = {"input_size": (spec.in_chans, *spec.img_size)}
        overlay |= settings.pop("pretrained_cfg_overlay", None) or {}
        model: nn.Module = build_model_with_cfg(
            partial(_create, name), name, pretrained, feature_cfg=features, pretrained_cfg_overlay=overlay, **settings
        )
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name  # what timm registers it under
    return entrypoint


for _name in list_models():
    _spec = model_spec(_name)
    default_cfgs[_name] = {
        "url": "",
        "input_size": (_spec.in_chans, *_spec.img_size),
        "fixed_input_size": True,
        "num_classes": _spec.num_classes,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "stem.conv",
        "classifier": "head.linear",
    }
    register_model(_entrypoint(_name))
