"""Export packed models as ONNX graphs of standard operators.

Needs the package onnx, and no PyTorch.
"""

from .export import WEIGHTS, to_onnx

__all__ = ["WEIGHTS", "to_onnx"]
