"""Running a packed model: `session` (native, fast) and `reference` (NumPy, readable). No PyTorch."""

from .session import Session

__all__ = ["Session"]
