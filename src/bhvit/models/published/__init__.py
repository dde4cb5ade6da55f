"""Weights published with the BHViT and BinaryViT papers."""

from .convert import from_published, to_published

__all__ = ["from_published", "to_published"]
