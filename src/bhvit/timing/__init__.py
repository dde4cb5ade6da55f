"""Timing of models: side by side, and op by op."""

from .turns import BUSY, Run, Timing, busy, measure

__all__ = ["BUSY", "Run", "Timing", "busy", "measure"]
