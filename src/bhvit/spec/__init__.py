"""The description of an architecture: `ModelSpec`, its overrides by name, its limits."""

from .model import ModelSpec, StageSpec

__all__ = ["ModelSpec", "StageSpec"]
