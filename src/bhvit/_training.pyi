"""Types of the fused kernels of a training step; `bhvit.models.fused` is their face.

`isas` has a submodule for each instruction set that this machine can run, the fastest first. Each holds
`float32` and `float64`, which have the same functions, for tensors of their type given by address. What each does
stands in native/training/kernels.h.
"""

from typing import Any

isas: dict[str, Any]
