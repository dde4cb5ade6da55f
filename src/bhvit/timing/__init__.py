"""Timing of models: side by side, and op by op."""

from .measure import BUSY, Run, Timing, busy, measure

__all__ = ["BUSY", "Run", "Timing", "busy", "measure"]
