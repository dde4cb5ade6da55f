"""Cost of an op, counted as the published tables count."""

from __future__ import annotations

import dataclasses
import math

from ..spec.model import ModelSpec, StageSpec

BINARY_PER_FLOAT = 64
"""Binary multiply-accumulates that count as one operation: the width of a word."""
# Learned floats a channel of the parts that blocks are made of.
NORM, BIAS_BEFORE_SIGN, RPRELU, LAYER_SCALE, BIAS, MIX = 2, 1, 3, 2, 1, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpCost:
    """Cost of one op for one image: counts, not bytes."""

    name: str
    kind: str
    binary_macs: int = 0
    executed_binary_macs: int = 0
    """As `binary_macs`, but with each global token of attention projected once, as the engine does."""
    float_macs: int = 0
    binary_parameters: int = 0
    float_parameters: int = 0

    @property
    def ops(self) -> float:
        """BOPs / 64 + FLOPs."""
        return self.binary_macs / BINARY_PER_FLOAT + self.float_macs

    @property
    def parameters(self) -> int:
        """Learned numbers, binary and full precision."""
        return self.binary_parameters + self.float_parameters


def downsampled(spec: ModelSpec, index: int) -> tuple[int, int, int]:
    """Return the tokens after the downsampling before a stage, and its channels before and after."""
    return math.prod(spec.grid(index)), spec.stages[index - 1].channels, spec.stages[index].channels


def quantised(
    stage: StageSpec, name: str, kind: str, *, weights: int, floats: int, macs: int, executed: int | None = None
) -> OpCost:
    """Return the cost of an op whose layers are as the stage quantises them.

    `weights` and `macs` count as binary where the stage is; `floats` are other parameters.
    """
    binary = (stage.weight_bits, stage.activation_bits) == (1, 1)
    return OpCost(
        name=name,
        kind=kind,
        binary_macs=macs if binary else 0,
        executed_binary_macs=(macs if executed is None else executed) if binary else 0,
        float_macs=0 if binary else macs,
        binary_parameters=weights if stage.weight_bits == 1 else 0,
        float_parameters=floats + (0 if stage.weight_bits == 1 else weights),
    )
