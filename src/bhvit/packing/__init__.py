"""Packing: a trained model -> a `.bhv` file of bits."""

from .lowering import register_lowering
from .packed import pack, packed_model

__all__ = ["pack", "packed_model", "register_lowering"]
