# mypy: ignore-errors
# Functions in Triton's language, which type checkers take for Python.
"""Triton kernels that look at neighbours on a grid; see `triton_kernels`."""

import triton
import triton.language as tl


@triton.jit
def _neighbours(r, height, width, TAP: tl.constexpr, SIDE: tl.constexpr, CYCLIC: tl.constexpr):
    """The rows of the tokens at a tap from those of rows r of grids, and whether they are inside; SIDE -1 looks back.

    Taps are in the order of `bhvit.format.arithmetic.TAPS`: none, then -1, 1, -2 and 2 along H, and the same along W.
    """
    row, column = (r // width) % height, r % width
    step = SIDE * (((TAP + 3) % 4) // 2 + 1) * (2 * ((TAP + 1) % 2) - 1)
    if TAP > 4:
        column += step
    elif TAP > 0:
        row += step
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if CYCLIC:
        inside = row == row
        row, column = (row + 2 * height) % height, (column + 2 * width) % width
    return (r // (height * width)) * (height * width) + row * width + column, inside


@triton.jit
def cross(
    base,
    n,
    taps,
    shift,
    out,
    rows,
    height,
    width,
    channels,
    SIDE: tl.constexpr,
    BASE: tl.constexpr,
    CYCLIC: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """The sum over taps (9, channels) of tokens of n, with BASE plus base + shift; SIDE -1 looks back: gradients."""
    r = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < channels
    mask = (r < rows)[:, None] & there[None, :]
    at = r.to(tl.int64)[:, None] * channels + c[None, :]
    total = tl.zeros([BN, BC], ACC)
    if BASE:
        total += tl.load(base + at, mask=mask, other=0.0).to(ACC)
        total += tl.load(shift + c, mask=there, other=0.0).to(ACC)[None, :]
    for k in tl.static_range(9):
        from_, inside = _neighbours(r, height, width, k, SIDE, CYCLIC)
        values = tl.load(
            n + from_.to(tl.int64)[:, None] * channels + c[None, :], mask=mask & inside[:, None], other=0.0
        ).to(ACC)
        total += values * tl.load(taps + k * channels + c, mask=there, other=0.0).to(ACC)[None, :]
    tl.store(out + at, total, mask=mask)


@triton.jit
def cross_sums(
    n,
    grad,
    partial,
    rows,
    height,
    width,
    channels,
    CYCLIC: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of the nine taps, then of the shift, by program: partial (programs, 16, channels), the rest zero."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < channels
    index = tl.arange(0, 16)[:, None]
    total = tl.zeros([16, BC], ACC)
    for start in range(program * BN, rows, programs * BN):
        r = start + tl.arange(0, BN)
        mask = (r < rows)[:, None] & there[None, :]
        own = tl.load(grad + r.to(tl.int64)[:, None] * channels + c[None, :], mask=mask, other=0.0).to(ACC)
        for k in tl.static_range(9):
            from_, inside = _neighbours(r, height, width, k, 1, CYCLIC)
            values = tl.load(
                n + from_.to(tl.int64)[:, None] * channels + c[None, :], mask=mask & inside[:, None], other=0.0
            ).to(ACC)
            total += tl.where(index == k, tl.sum(own * values, 0)[None, :], 0.0)
        total += tl.where(index == 9, tl.sum(own, 0)[None, :], 0.0)
    at = partial + (program * 16 + index) * channels + c[None, :]
    tl.store(at, total, mask=(index < 16) & there[None, :])
