# mypy: ignore-errors
# Functions in Triton's language, which type checkers take for Python.
"""Triton kernels of signs: of activations, of latent weights, and of what attention quantises; see `triton_kernels`."""

import triton
import triton.language as tl


@triton.jit
def signs(x, learnable_bias, out, rows, channels, BN: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """Signs of x + learnable_bias, sign(0) = +1."""
    r = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < channels
    mask = (r < rows)[:, None] & there[None, :]
    at = r.to(tl.int64)[:, None] * channels + c[None, :]
    moved = (
        tl.load(x + at, mask=mask, other=0.0).to(ACC)
        + tl.load(learnable_bias + c, mask=there, other=0.0).to(ACC)[None, :]
    )
    tl.store(out + at, tl.where(moved >= 0, 1.0, -1.0), mask=mask)


@triton.jit
def signs_backward(
    x,
    learnable_bias,
    grad,
    add,
    grad_x,
    partial,
    rows,
    channels,
    ADD: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of x, plus `add` with ADD, and that of learnable_bias by program: partial (programs, channels)."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < channels
    biases = tl.load(learnable_bias + c, mask=there, other=0.0).to(ACC)[None, :]
    total = tl.zeros([BC], ACC)
    for start in range(program * BN, rows, programs * BN):
        r = start + tl.arange(0, BN)
        mask = (r < rows)[:, None] & there[None, :]
        at = r.to(tl.int64)[:, None] * channels + c[None, :]
        moved = tl.load(x + at, mask=mask, other=0.0).to(ACC) + biases
        own = tl.load(grad + at, mask=mask, other=0.0).to(ACC) * tl.maximum(2.0 - 2.0 * tl.abs(moved), 0.0)
        total += tl.sum(own, 0)
        if ADD:
            own += tl.load(add + at, mask=mask, other=0.0).to(ACC)
        tl.store(grad_x + at, own, mask=mask)
    tl.store(partial + program * channels + c, total, mask=there)


@triton.jit
def binarise(latent, out, inputs, CENTRED: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr):
    """Signs of each row of latent (outputs, inputs), less its mean if CENTRED, times its mean magnitude."""
    k = tl.arange(0, BK)
    mask = k < inputs
    row = tl.program_id(0).to(tl.int64) * inputs
    values = tl.load(latent + row + k, mask=mask, other=0.0).to(ACC)
    scale = tl.sum(tl.abs(values), 0) / inputs
    centred = values
    if CENTRED:
        centred = values - tl.sum(values, 0) / inputs
    tl.store(out + row + k, tl.where(centred >= 0, scale, -scale), mask=mask)


@triton.jit
def binarise_backward(latent, grad, grad_latent, inputs, CENTRED: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr):
    """The gradient of latent (outputs, inputs) for that of `binarise`: straight through within [-1, 1]."""
    k = tl.arange(0, BK)
    mask = k < inputs
    row = tl.program_id(0).to(tl.int64) * inputs
    values = tl.load(latent + row + k, mask=mask, other=0.0).to(ACC)
    if CENTRED:
        values = values - tl.sum(values, 0) / inputs
    own = tl.load(grad + row + k, mask=mask, other=0.0).to(ACC)
    own = tl.where(mask & (tl.abs(values) <= 1.0), own, 0.0)
    if CENTRED:
        own -= tl.sum(own, 0) / inputs
    tl.store(grad_latent + row + k, own, mask=mask)


@triton.jit
def _levels(scores, step, offset, group, heads, tokens, keys, t, s, FACTOR: tl.constexpr, ACC: tl.constexpr):
    """Of a group and a head: where its rows t and keys s lie, the probabilities, 3 P / step and the levels."""
    mask = (t < tokens)[:, None] & (s < keys)[None, :]
    at = (group.to(tl.int64) * tokens + t[:, None]) * keys + s[None, :]
    values = tl.load(scores + at, mask=mask, other=float("-inf")).to(ACC) * FACTOR
    values = tl.where((t < tokens)[:, None], values, 0.0)
    powers = tl.exp(values - tl.max(values, 1)[:, None])
    probabilities = powers / tl.sum(powers, 1)[:, None]
    width = tl.load(step + group % heads).to(ACC)
    quotients = 3.0 * probabilities / width
    placed = quotients + tl.load(offset + group % heads).to(ACC)
    # round() to the nearest, of two the even one, then clamped to 0..3.
    levels = (placed > 0.5).to(ACC) + (placed >= 1.5).to(ACC) + (placed > 2.5).to(ACC)
    return mask, at, probabilities, quotients, levels, width


@triton.jit
def softmax_levels(
    scores,
    step,
    offset,
    out,
    heads,
    tokens,
    keys,
    FACTOR: tl.constexpr,
    BT: tl.constexpr,
    BS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Decomposed quantisation of the softmax over keys of scores (groups heads, tokens, keys) times FACTOR."""
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    s = tl.arange(0, BS)
    mask, at, _, _, levels, width = _levels(
        scores, step, offset, tl.program_id(0), heads, tokens, keys, t, s, FACTOR, ACC
    )
    tl.store(out + at, levels * width, mask=mask)


@triton.jit
def softmax_levels_backward(
    scores,
    step,
    offset,
    grad,
    grad_scores,
    partial,
    heads,
    tokens,
    keys,
    FACTOR: tl.constexpr,
    BT: tl.constexpr,
    BS: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of the scores, and those of step and offset by program: partial (groups heads, blocks, 2)."""
    group, block = tl.program_id(0), tl.program_id(1)
    t = block * BT + tl.arange(0, BT)
    s = tl.arange(0, BS)
    mask, at, probabilities, quotients, levels, width = _levels(
        scores, step, offset, group, heads, tokens, keys, t, s, FACTOR, ACC
    )
    own = tl.load(grad + at, mask=mask, other=0.0).to(ACC)
    between = tl.where((levels > 0) & (levels < 3), own, 0.0)
    of_probabilities = 3.0 * between
    along = tl.sum(of_probabilities * probabilities, 1)
    tl.store(grad_scores + at, probabilities * (of_probabilities - along[:, None]) * FACTOR, mask=mask)
    place = partial + 2 * (group * tl.num_programs(1) + block)
    tl.store(place, tl.sum(tl.sum(own * levels - between * quotients, 1), 0))
    tl.store(place + 1, tl.sum(tl.sum(between * width, 1), 0))
