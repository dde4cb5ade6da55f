"""bhvit: train binarised hybrid vision transformers, pack them into bits, run them on any CPU.

The public names are loaded when first used: importing bhvit loads neither torch nor the native code.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from .import_hooks import install as _install

if TYPE_CHECKING:
    from .errors import FormatError, MissingExtraError, UserError
    from .models import (
        BHViT,
        create_model,
        from_published,
        list_models,
        load_checkpoint,
        save_checkpoint,
        to_published,
    )
    from .packing import pack
    from .runtime import Session

__version__ = _version("bhvit")

_HOMES = {
    "BHViT": "models",
    "create_model": "models",
    "from_published": "models",
    "to_published": "models",
    "list_models": "spec.sizes",
    "load_checkpoint": "models",
    "save_checkpoint": "models",
    "pack": "packing",
    "Session": "runtime",
    "UserError": "errors",
    "FormatError": "errors",
    "MissingExtraError": "errors",
}

__all__ = [
    "BHViT",
    "FormatError",
    "MissingExtraError",
    "Session",
    "UserError",
    "__version__",
    "create_model",
    "from_published",
    "list_models",
    "load_checkpoint",
    "pack",
    "save_checkpoint",
    "to_published",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bhvit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_install()  # timm and transformers get to know the models, whichever is imported first
