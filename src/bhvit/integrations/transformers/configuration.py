"""`BHViTConfig`: a `ModelSpec` as transformers' configuration."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from ...hf_layout import MODEL_TYPE, read_config
from ...spec.model import ModelSpec

DEFAULT = "bhvit_small"


class BHViTConfig(PretrainedConfig):
    """A model's spec, the rate of its stochastic depth, and its labels.

    spec: a `ModelSpec`, its fields as a dictionary, or a model's name. Labels, when given, as id2label or num_labels,
    set the number of classes. Raises UserError for a spec that is damaged or impossible.
    """

    model_type = MODEL_TYPE

    def __init__(
        self, spec: ModelSpec | dict[str, Any] | str = DEFAULT, drop_path: float = 0.0, **settings: Any
    ) -> None:
        known = _resolve(spec)
        if settings.get("id2label") is None and settings.get("num_labels") is None:
            settings["num_labels"] = known.num_classes
        self.spec = json.loads(known.to_json())
        self.drop_path = drop_path
        super().__init__(**settings)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.model_spec().img_size

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return self.model_spec().in_chans

    def model_spec(self) -> ModelSpec:
        """The spec, with as many classes as there are labels now."""
        return dataclasses.replace(_resolve(self.spec), num_classes=self.num_labels)

    def class_names(self) -> tuple[str, ...] | None:
        """The labels in order, None if they are the ones that stand for no names."""
        labels = {str(index): name for index, name in self.id2label.items()}
        spec = json.loads(self.model_spec().to_json())
        return read_config({"model_type": MODEL_TYPE, "spec": spec, "id2label": labels})[1]

    def to_dict(self) -> dict[str, Any]:
        """All settings, as `config.json` has them."""
        fields: dict[str, Any] = super().to_dict()
        return {**fields, "spec": {**self.spec, "num_classes": self.num_labels}}


def _resolve(spec: ModelSpec | dict[str, Any] | str) -> ModelSpec:
    if isinstance(spec, ModelSpec):
        return spec
    if isinstance(spec, str):
        from ...models import model_spec

        return model_spec(spec)
    return ModelSpec.from_json(json.dumps(spec))


def _register() -> None:
    # Here and not above, since importing it imports this module first, where bhvit was imported before.
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(MODEL_TYPE, BHViTConfig, exist_ok=True)


_register()
