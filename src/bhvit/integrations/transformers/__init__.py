"""The models as transformers has them: a configuration, an image classifier and an image processor.

Importing a module of this package registers its class with transformers' Auto class of that kind. `bhvit.import_hooks`
imports them as soon as both bhvit and transformers are imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...errors import require_extra

try:
    importlib.import_module("transformers")
except ModuleNotFoundError as error:
    raise require_extra(error.name or "transformers", "transformers") from None

if TYPE_CHECKING:
    from .configuration import BHViTConfig
    from .image_processing import BHViTImageProcessor
    from .modeling import BHViTForImageClassification, BHViTForSemanticSegmentation

_HOMES = {
    "BHViTConfig": "configuration",
    "BHViTForImageClassification": "modeling",
    "BHViTForSemanticSegmentation": "modeling",
    "BHViTImageProcessor": "image_processing",
}

__all__ = ["BHViTConfig", "BHViTForImageClassification", "BHViTForSemanticSegmentation", "BHViTImageProcessor"]


def __getattr__(name: str) -> Any:
    # When first used: each of them is imported in the middle of transformers' own imports, without the others.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
