"""Packing: a trained model -> a `.bhv` file of bits."""

from .packed import pack, packed_model

__all__ = ["pack", "packed_model"]
