# mypy: ignore-errors
# Functions in Triton's language, which type checkers take for Python.
"""Triton kernels of units: batch norm with its moments, residual, RPReLU and LayerScale; see `triton_kernels`."""

import triton
import triton.language as tl


@triton.jit
def column_moments(x, partial, rows, channels, BN: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr):
    """Count, mean and sum of squared deviations of the columns, by program: partial (3, programs, channels)."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < channels
    mean = tl.zeros([BC], ACC)
    squares = tl.zeros([BC], ACC)
    count = tl.zeros([BC], ACC)
    for start in range(program * BN, rows, programs * BN):
        r = start + tl.arange(0, BN)
        mask = (r < rows)[:, None] & there[None, :]
        values = tl.load(x + r.to(tl.int64)[:, None] * channels + c[None, :], mask=mask, other=0.0).to(ACC)
        own = tl.sum(mask.to(ACC), 0)
        own_mean = tl.sum(values, 0) / tl.maximum(own, 1.0)
        deviations = tl.where(mask, values - own_mean[None, :], 0.0)
        total = tl.maximum(count + own, 1.0)
        delta = own_mean - mean
        squares += tl.sum(deviations * deviations, 0) + delta * delta * count * own / total
        mean += delta * own / total
        count += own
    at = partial + program * channels + c
    tl.store(at, count, mask=there)
    tl.store(at + programs * channels, mean, mask=there)
    tl.store(at + 2 * programs * channels, squares, mask=there)


@triton.jit
def finish_moments(
    partial,
    mean,
    inverse,
    running_mean,
    running_variance,
    channels,
    programs,
    EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """Mean and 1 / deviation of the columns from what `column_moments` left; running statistics follow them."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    p = tl.arange(0, BP)
    there = c < channels
    mask = (p < programs)[:, None] & there[None, :]
    at = partial + p[:, None] * channels + c[None, :]
    counts = tl.load(at, mask=mask, other=0.0)
    means = tl.load(at + programs * channels, mask=mask, other=0.0)
    squares = tl.load(at + 2 * programs * channels, mask=mask, other=0.0)
    count = tl.maximum(tl.sum(counts, 0), 1.0)
    average = tl.sum(counts * means, 0) / count
    deviations = means - average[None, :]
    total = tl.sum(squares, 0) + tl.sum(counts * deviations * deviations, 0)
    tl.store(mean + c, average, mask=there)
    tl.store(inverse + c, 1.0 / tl.sqrt(total / count + EPS), mask=there)
    before = tl.load(running_mean + c, mask=there, other=0.0).to(ACC)
    tl.store(running_mean + c, before + MOMENTUM * (average - before), mask=there)
    before = tl.load(running_variance + c, mask=there, other=0.0).to(ACC)
    tl.store(running_variance + c, before + MOMENTUM * (total / (count - 1.0) - before), mask=there)


@triton.jit
def _unit(
    h,
    residual,
    mean,
    inverse,
    weight,
    bias,
    shift_in,
    slope,
    shift_out,
    r,
    o,
    mask,
    there,
    channels,
    width,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
):
    """What a unit's pieces are at rows r and channels o: normalised h, argument of the PReLU, its slope, output."""
    row = r.to(tl.int64)[:, None]
    z = tl.load(h + row * channels + o[None, :], mask=mask, other=0.0).to(ACC)
    normalised = z
    if NORM:
        normalised = (z - tl.load(mean + o, mask=there, other=0.0)[None, :]) * tl.load(
            inverse + o, mask=there, other=0.0
        )[None, :]
        z = normalised * tl.load(weight + o, mask=there, other=0.0).to(ACC)[None, :]
        z += tl.load(bias + o, mask=there, other=0.0).to(ACC)[None, :]
    if RESIDUAL:
        z += tl.load(residual + row * width + (o % width)[None, :], mask=mask, other=0.0).to(ACC)
    slopes = tl.zeros([1, 1], ACC)
    if ACTIVATION:
        z -= tl.load(shift_in + o, mask=there, other=0.0).to(ACC)[None, :]
        slopes = tl.load(slope + o, mask=there, other=0.0).to(ACC)[None, :]
        y = tl.where(z > 0, z, slopes * z) + tl.load(shift_out + o, mask=there, other=0.0).to(ACC)[None, :]
    else:
        y = z
    return normalised, z, slopes, y


@triton.jit
def unit(
    h,
    residual,
    mean,
    inverse,
    weight,
    bias,
    shift_in,
    slope,
    shift_out,
    scale,
    shift,
    learnable_bias,
    out,
    means,
    rows,
    width,
    REPEATS: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    SIGNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """y = RPReLU(norm(h) + residual), h (rows, REPEATS width), and of it: y, scale * y + shift, or with SIGNS the signs
    of y + learnable_bias and the means (rows, width) of REPEATS neighbouring channels of y."""
    r = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < width
    mask = (r < rows)[:, None] & there[None, :]
    channels = width * REPEATS
    for k in tl.static_range(REPEATS):
        o = k * width + c
        _, _, _, y = _unit(
            h, residual, mean, inverse, weight, bias, shift_in, slope, shift_out, r, o, mask, there, channels, width,
            NORM, RESIDUAL, ACTIVATION, ACC,
        )  # fmt: skip
        to = out + r.to(tl.int64)[:, None] * channels + o[None, :]
        if SIGNS:
            moved = y + tl.load(learnable_bias + o, mask=there, other=0.0).to(ACC)[None, :]
            tl.store(to, tl.where(moved >= 0, 1.0, -1.0), mask=mask)
            averages = tl.sum(tl.reshape(y, [BN, BC // REPEATS, REPEATS]), 2) / REPEATS
            group = (k * width + tl.program_id(1) * BC) // REPEATS + tl.arange(0, BC // REPEATS)
            inside = tl.program_id(1) * BC + tl.arange(0, BC // REPEATS) * REPEATS < width
            at = means + r.to(tl.int64)[:, None] * width + group[None, :]
            tl.store(at, averages, mask=(r < rows)[:, None] & inside[None, :])
        else:
            if SCALE:
                y = y * tl.load(scale + o, mask=there, other=0.0).to(ACC)[None, :]
                y += tl.load(shift + o, mask=there, other=0.0).to(ACC)[None, :]
            tl.store(to, y, mask=mask)


@triton.jit
def _unit_gradient(
    y,
    z,
    slopes,
    scale,
    learnable_bias,
    grad,
    grad_means,
    r,
    o,
    mask,
    there,
    channels,
    width,
    REPEATS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    SIGNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients at rows r and channels o: as given, of y, of the signs' argument, and of the PReLU's argument."""
    row = r.to(tl.int64)[:, None]
    given = tl.load(grad + row * channels + o[None, :], mask=mask, other=0.0).to(ACC)
    own = given
    of_learnable_bias = given
    if SIGNS:
        moved = y + tl.load(learnable_bias + o, mask=there, other=0.0).to(ACC)[None, :]
        of_learnable_bias = given * tl.maximum(2.0 - 2.0 * tl.abs(moved), 0.0)
        own = (
            of_learnable_bias
            + tl.load(grad_means + row * width + (o // REPEATS)[None, :], mask=mask, other=0.0).to(ACC) / REPEATS
        )
    elif SCALE:
        own = given * tl.load(scale + o, mask=there, other=0.0).to(ACC)[None, :]
    before = own
    if ACTIVATION:
        before = tl.where(z > 0, own, slopes * own)
    return given, own, of_learnable_bias, before


@triton.jit
def unit_sums(
    h,
    residual,
    mean,
    inverse,
    weight,
    bias,
    shift_in,
    slope,
    shift_out,
    scale,
    shift,
    learnable_bias,
    grad,
    grad_means,
    partial,
    rows,
    width,
    REPEATS: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    SIGNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums over rows that the gradients of `unit` need, by program: partial (programs, 5, REPEATS width).

    With g the gradient of y and d that of the PReLU's argument: of d times normalised h, of d, of g z where the slope
    applies, of the given gradient (SCALE) or of g, and of the given gradient times y (SCALE) or that of the learnable
    bias (SIGNS).
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    channels = width * REPEATS
    o = tl.program_id(1) * BC + tl.arange(0, BC)
    there = o < channels
    of_weight = tl.zeros([BC], ACC)
    of_bias = tl.zeros([BC], ACC)
    of_slope = tl.zeros([BC], ACC)
    of_shift = tl.zeros([BC], ACC)
    of_last = tl.zeros([BC], ACC)
    for start in range(program * BN, rows, programs * BN):
        r = start + tl.arange(0, BN)
        mask = (r < rows)[:, None] & there[None, :]
        normalised, z, slopes, y = _unit(
            h, residual, mean, inverse, weight, bias, shift_in, slope, shift_out, r, o, mask, there, channels, width,
            NORM, RESIDUAL, ACTIVATION, ACC,
        )  # fmt: skip
        given, own, of_learnable_bias, before = _unit_gradient(
            y, z, slopes, scale, learnable_bias, grad, grad_means, r, o, mask, there, channels, width,
            REPEATS, ACTIVATION, SCALE, SIGNS, ACC,
        )  # fmt: skip
        of_weight += tl.sum(before * normalised, 0)
        of_bias += tl.sum(before, 0)
        if ACTIVATION:
            of_slope += tl.sum(tl.where(z > 0, 0.0, z * own), 0)
        if SCALE:
            of_shift += tl.sum(given, 0)
            of_last += tl.sum(given * y, 0)
        else:
            of_shift += tl.sum(own, 0)
            if SIGNS:
                of_last += tl.sum(of_learnable_bias, 0)
    at = partial + program * 5 * channels + o
    tl.store(at, of_weight, mask=there)
    tl.store(at + channels, of_bias, mask=there)
    tl.store(at + 2 * channels, of_slope, mask=there)
    tl.store(at + 3 * channels, of_shift, mask=there)
    tl.store(at + 4 * channels, of_last, mask=there)


@triton.jit
def unit_gradients(
    h,
    residual,
    mean,
    inverse,
    weight,
    bias,
    shift_in,
    slope,
    shift_out,
    scale,
    shift,
    learnable_bias,
    grad,
    grad_means,
    sums,
    grad_h,
    grad_residual,
    rows,
    width,
    REPEATS: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SCALE: tl.constexpr,
    SIGNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of h and of the residual of `unit`, from the sums (5, REPEATS width) of `unit_sums` over programs."""
    r = tl.program_id(0) * BN + tl.arange(0, BN)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    there = c < width
    mask = (r < rows)[:, None] & there[None, :]
    channels = width * REPEATS
    row = r.to(tl.int64)[:, None]
    tiles = tl.zeros([BN, BC], ACC)
    for k in tl.static_range(REPEATS):
        o = k * width + c
        normalised, z, slopes, y = _unit(
            h, residual, mean, inverse, weight, bias, shift_in, slope, shift_out, r, o, mask, there, channels, width,
            NORM, RESIDUAL, ACTIVATION, ACC,
        )  # fmt: skip
        _, _, _, before = _unit_gradient(
            y, z, slopes, scale, learnable_bias, grad, grad_means, r, o, mask, there, channels, width,
            REPEATS, ACTIVATION, SCALE, SIGNS, ACC,
        )  # fmt: skip
        tiles += before
        if NORM:
            of_weight = tl.load(sums + o, mask=there, other=0.0).to(ACC) / rows
            of_bias = tl.load(sums + channels + o, mask=there, other=0.0).to(ACC) / rows
            factor = tl.load(weight + o, mask=there, other=0.0).to(ACC) * tl.load(inverse + o, mask=there, other=0.0)
            before = (before - of_bias[None, :] - normalised * of_weight[None, :]) * factor[None, :]
        tl.store(grad_h + row * channels + o[None, :], before, mask=mask)
    if RESIDUAL:
        tl.store(grad_residual + row * width + c[None, :], tiles, mask=mask)
