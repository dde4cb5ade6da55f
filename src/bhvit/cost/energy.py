"""Energy of an image in joules, estimated from published energies of operations.

The figures are those of Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
for a 45 nm process at 0.9 V (DRAM: 1.3 to 2.6 nJ for 64 bits, of which Han et al., "Learning both weights
and connections for efficient neural networks", NeurIPS 2015, take the lower end as 640 pJ for 32). They
hold for arithmetic units and DRAM alone: no instruction is fetched (about 70 pJ each, says the same paper),
no cache is read, no activation stored. So these are not the joules of a real processor, whose every part
costs many times as much; they compare networks.

    full-precision multiply-accumulate   one float32 product and one float32 sum: 3.7 + 0.9 pJ
    64 binary multiply-accumulates       XNOR of a 64-bit word, count of its bits, sum into 32 bits:
                                         8 + 8 additions of 8 bits and one of 32: 16 * 0.03 + 0.1 pJ
    weights                              each read once an image from DRAM: 640 pJ for every 32 bits

No source measures an XNOR or a count of bits at that process. An 8-bit addition is a chain of eight full
adders, a full adder holds two XOR gates, and 64 bits are counted by fewer than 64 full adders: so both are
taken as 64 full adders, which is more than either needs.
"""

from __future__ import annotations

import dataclasses

from ..format.op_cost import BINARY_PER_FLOAT, OpCost

SOURCE = "Horowitz, ISSCC 2014 (45 nm, 0.9 V); DRAM as in Han et al., NeurIPS 2015"
FLOAT32_MULTIPLY, FLOAT32_ADD = 3.7, 0.9
INT8_ADD, INT32_ADD = 0.03, 0.1
DRAM_READ_32 = 640.0
"""All in picojoules."""

FLOAT_MAC = FLOAT32_MULTIPLY + FLOAT32_ADD
BINARY_WORD = 2 * BINARY_PER_FLOAT / 8 * INT8_ADD + INT32_ADD
"""Of 64 binary multiply-accumulates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one image, in joules."""

    arithmetic: float
    weights: float

    @property
    def total(self) -> float:
        return self.arithmetic + self.weights

    def to_dict(self) -> dict[str, float]:
        return {"arithmetic": self.arithmetic, "weights": self.weights, "total": self.total}


def binary_energy(cost: OpCost) -> Energy:
    """Return the energy of a model whose binary parameters have one bit.

    All others have 32.
    """
    arithmetic = cost.binary_macs / BINARY_PER_FLOAT * BINARY_WORD + cost.float_macs * FLOAT_MAC
    return _energy(arithmetic, cost.binary_parameters / 32 + cost.float_parameters)


def float32_energy(cost: OpCost) -> Energy:
    """Return the energy of the same network in float32 throughout."""
    return _energy((cost.binary_macs + cost.float_macs) * FLOAT_MAC, cost.parameters)


def _energy(arithmetic: float, words: float) -> Energy:
    return Energy(arithmetic=arithmetic * 1e-12, weights=words * DRAM_READ_32 * 1e-12)
