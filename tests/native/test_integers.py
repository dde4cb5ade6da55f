"""Integers of every instruction set equal NumPy's, for all lengths, borders and odd shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bhvit import _native, bits
from bhvit.format import file as bhv_file
from bhvit.format.arithmetic import binary_conv
from bhvit.spec.model import DILATIONS, ModelSpec, StageSpec
from helpers.random_model import random_model

ISAS = _native.available_isas()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("length", [*range(1, 130, 7), 31, 32, 33, 64, 512, 991, 992, 993, 2048, 2049, 8192])
def test_binary_linear_is_exact(isa: str, length: int) -> None:
    rng = np.random.default_rng(length)
    for tokens, outputs in ((1, 16), (3, 5), (8, 33), (9, 64)):
        x = rng.standard_normal((tokens, length))
        weight = rng.standard_normal((outputs, length))
        words, tiles = bits.pack_signs(x), bits.tile_weights(weight)
        exact = np.where(x >= 0, 1, -1) @ np.where(weight >= 0, 1, -1).T
        found = _native.binary_linear(isa, words, tiles, length)[:, :outputs]
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tokens", range(1, 19))
def test_any_number_of_tokens_at_any_address(isa: str, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    words = 5
    tiles = rng.integers(0, 1 << 32, (3, words, 16), np.uint32)
    weights = bits.untile_weights(tiles, 48)
    for offset in range(4):
        block = rng.integers(0, 1 << 32, offset + tokens * words, np.uint32)
        activations = block[offset:].reshape(tokens, words)
        found = _native.binary_linear(isa, activations, tiles, 32 * words)
        np.testing.assert_array_equal(found, bits.binary_dot(activations, weights, 32 * words))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fill", [0, 0xFFFFFFFF])
def test_extreme_sums_do_not_overflow(isa: str, fill: int) -> None:
    """Every bit differs, over more words than any byte accumulator holds."""
    words = 65536 // 32
    activations = np.full((2, words), fill ^ 0xFFFFFFFF, np.uint32)
    tiles = np.full((1, words, 16), fill, np.uint32)
    assert (_native.binary_linear(isa, activations, tiles, 65536) == -65536).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keys", [1, 16, 31, 32, 33, 50, 53, 64, 65, 130])
def test_levels_times_values_are_exact(isa: str, keys: int) -> None:
    """Attention's product: two bit planes of levels AND transposed bits of values."""
    rng = np.random.default_rng(keys)
    levels = rng.integers(0, 4, (7, keys))
    values = rng.integers(0, 2, (keys, 48)) * 2 - 1
    tiles = bits.tile_weights(values.T.astype(np.float32))
    ones, twos = (_native.common_bits(isa, bits.pack_bits(levels & plane > 0), tiles) for plane in (1, 2))
    product = 2 * (ones + 2 * twos) - levels.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(product, levels @ values)


GRIDS = [(h, w) for h in range(1, 14) for w in {1, 2, 3, h, 14 - h}] + [(4, 17), (7, 33), (19, 6)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [64, 128, 192])
def test_dilated_convolutions_are_exact_at_borders(isa: str, channels: int) -> None:
    """A mixer whose floats pass one convolution's integers through, on grids down to one token."""
    for height, width in GRIDS:
        stage = StageSpec(depth=1, channels=channels, hidden=channels, mixer="conv")
        spec = ModelSpec(name="conv", img_size=(height, width), patch=1, num_classes=2, stages=(stage,))
        model = random_model(spec, seed=height * 100 + width)
        rng = np.random.default_rng(width)
        signs = rng.integers(0, 2, (height, width, channels)) * 2 - 1
        tensors = dict(model.tensors)
        for name in ("weight", "bias"):
            tensors[f"stem.{name}"] = np.zeros_like(tensors[f"stem.{name}"])
        tensors["stem.position"] = signs.reshape(-1, channels).astype(np.float32)
        mixer = "stages.0.0.mixer."
        for names, value in ((("norm_scale", "out_scale", "slope"), 1), (("norm_shift", "out_shift", "shift"), 0)):
            for name in names:
                tensors[mixer + name] = np.full_like(tensors[mixer + name], value)
        for i, dilation in enumerate(DILATIONS):
            tensors[mixer + "scale"] = np.zeros((3, channels), np.float32)
            tensors[mixer + "scale"][i] = 1
            data = bhv_file.to_bytes(dataclasses.replace(model, tensors=tensors))
            image = np.zeros((3, height, width), np.float32)
            found = dict(_native.Program(data, 1, isa).trace(image))["stages.0.0.mixer"] - signs
            exact = binary_conv(signs > 0, tensors[mixer + "weight"][i], 4, dilation)
            np.testing.assert_array_equal(found, exact, err_msg=f"{height}x{width}, dilation {dilation}")


def test_peak_rates_are_those_of_an_instruction_set_that_exists() -> None:
    for rate in (_native.peak_rate, _native.float_peak_rate):
        with pytest.raises(ValueError, match="sse9"):
            rate("sse9", 0.001)
