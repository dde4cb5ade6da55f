"""Models by name."""

from __future__ import annotations

from typing import Any

from ..spec.sizes import model_spec
from .network import BHViT


def create_model(name: str, *, drop_path: float = 0.0, **settings: Any) -> BHViT:
    """A new, initialised model by name; settings are those of `model_spec`.

    Raises UserError for an unknown name or impossible settings.
    """
    return BHViT(model_spec(name, **settings), drop_path=drop_path)
