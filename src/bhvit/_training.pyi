"""Types of the fused kernels of a training step; `bhvit.models.fused` is their face.

Both submodules have the same functions, for tensors of their type given by address. What each does stands in
native/training/kernels.h.
"""

from types import ModuleType

float32: ModuleType
float64: ModuleType
