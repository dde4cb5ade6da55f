"""A packed model as an ONNX graph of standard operators. Needs the package onnx, and no PyTorch."""

from .export import WEIGHTS, to_onnx

__all__ = ["WEIGHTS", "to_onnx"]
