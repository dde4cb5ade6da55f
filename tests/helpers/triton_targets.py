"""Compiles every Triton kernel of training for a GPU that need not be there: `python triton_targets.py 90` (H100).

Each with the pieces that a model asks of it. Prints the bytes of each kernel and its shared memory.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from bhvit.models.fused import triton_kernels as kernels

BLOCK = {"BN": 32, "BC": 64, "ACC": "float32"}
UNIT = {"REPEATS": 4, "NORM": True, "RESIDUAL": True, "ACTIVATION": True, "SCALE": False, "SIGNS": True, **BLOCK}
LAST = {**UNIT, "REPEATS": 1, "SCALE": True, "SIGNS": False}
ABSENT = "residual shift_in slope shift_out scale shift move means grad_means grad_residual".split()
NORM = {**LAST, "RESIDUAL": False, "ACTIVATION": False, "SCALE": False, **dict.fromkeys(ABSENT)}
LEVELS = {"FACTOR": 0.125, "BT": 64, "BS": 64, "ACC": "float32"}
CONSTANTS: list[tuple[str, dict[str, Any]]] = [
    ("column_moments", BLOCK),
    ("finish_moments", {"EPS": 1e-5, "MOMENTUM": 0.1, "BP": 512, "BC": 16, "ACC": "float32"}),
    ("unit", UNIT),
    ("unit", LAST),
    ("unit_sums", UNIT),
    ("unit_sums", LAST),
    ("unit_gradients", UNIT),
    ("unit_gradients", LAST),
    ("unit", NORM),
    ("unit_sums", NORM),
    ("unit_gradients", NORM),
    ("signs", BLOCK),
    ("signs_backward", {"ADD": True, **BLOCK}),
    ("binarise", {"CENTRED": True, "BK": 2048, "ACC": "float32"}),
    ("binarise_backward", {"CENTRED": True, "BK": 2048, "ACC": "float32"}),
    ("softmax_levels", LEVELS),
    ("softmax_levels_backward", LEVELS),
    ("cross", {"SIDE": 1, "BASE": True, "CYCLIC": True, **BLOCK}),
    ("cross", {"SIDE": -1, "BASE": False, "CYCLIC": False, **BLOCK}),
    ("cross_sums", {"CYCLIC": True, **BLOCK}),
]
WHOLE = "rows channels width height programs inputs heads tokens keys".split()
SINGLE = (
    "partial mean inverse running_mean running_variance weight bias shift_in slope shift_out scale shift move sums "
    "latent step offset taps"
).split()


def compiled(name: str, constants: dict[str, Any], capability: int) -> Any:
    """A kernel compiled for tokens of bfloat16."""
    import triton.language as tl

    kernel = getattr(kernels, name)
    values = {key: tl.float32 if value == "float32" else value for key, value in constants.items()}
    values = {key: value for key, value in values.items() if key in kernel.arg_names}
    signature, grid = {}, name.startswith("cross")
    for argument in kernel.arg_names:
        if argument in values:
            signature[argument] = "constexpr"
        elif argument in WHOLE and not (argument == "width" and not grid and "REPEATS" not in constants):
            signature[argument] = "i32"
        else:
            signature[argument] = "*fp32" if argument in SINGLE else "*bf16"
    source = triton.compiler.ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in values.items()})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def main() -> None:
    for name, constants in CONSTANTS:
        found = compiled(name, constants, int(sys.argv[1]))
        print(name, len(found.asm["cubin"]), found.metadata.shared, flush=True)


if __name__ == "__main__":
    main()
