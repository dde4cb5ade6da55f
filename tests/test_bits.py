import numpy as np
import pytest

from bhvit import bits


def test_sign_of_zero_is_plus_one_and_of_minus_zero_too() -> None:
    words = bits.pack_signs(np.array([0.0, -0.0, -1e-45, 1e-45], np.float32))
    assert words.tolist() == [0b1011]


def test_channel_c_is_bit_c_mod_32_of_word_c_div_32() -> None:
    for channel in (0, 1, 31, 32, 63, 64, 99):
        values = np.full(100, -1.0)
        values[channel] = 1.0
        words = bits.pack_signs(values)
        assert words.tolist() == [(1 << channel % 32) if w == channel // 32 else 0 for w in range(4)]


def test_as_64_bit_words_channel_c_is_bit_c_mod_64() -> None:
    values = np.full(128, -1.0)
    values[[3, 40, 70, 127]] = 1.0
    wide = bits.pack_signs(values).view("<u8")
    assert wide.tolist() == [1 << 3 | 1 << 40, 1 << 6 | 1 << 63]


@pytest.mark.parametrize("length", [*range(1, 70), 127, 128, 129, 2048])
def test_packing_round_trips_and_leaves_the_tail_zero(length: int) -> None:
    values = np.random.default_rng(length).normal(size=(3, length))
    words = bits.pack_signs(values)
    assert words.shape == (3, bits.words_for(length))
    np.testing.assert_array_equal(bits.unpack_signs(words, length), np.where(values >= 0, 1, -1))
    if length % 32:
        assert not (words[:, -1] >> np.uint32(length % 32)).any()


@pytest.mark.parametrize("outputs", [1, 15, 16, 17, 48])
@pytest.mark.parametrize("inputs", [1, 32, 33, 144])
def test_weight_tiles_round_trip_and_hold_what_the_contract_says(outputs: int, inputs: int) -> None:
    values = np.random.default_rng(inputs).normal(size=(outputs, inputs))
    tiles = bits.tile_weights(values)
    assert tiles.shape == (-(-outputs // 16), bits.words_for(inputs), 16)
    rows = bits.pack_signs(values)
    np.testing.assert_array_equal(bits.untile_weights(tiles, outputs), rows)
    assert tiles[(outputs - 1) // 16, 0, (outputs - 1) % 16] == rows[outputs - 1, 0]


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 144, 1000])
def test_binary_dot_is_the_product_of_signs(length: int) -> None:
    generator = np.random.default_rng(length)
    a, w = generator.normal(size=(5, length)), generator.normal(size=(7, length))
    expected = np.where(a >= 0, 1, -1) @ np.where(w >= 0, 1, -1).T
    np.testing.assert_array_equal(bits.binary_dot(bits.pack_signs(a), bits.pack_signs(w), length), expected)


def test_popcount_counts() -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    assert bits.popcount(words).tolist() == [int(w).bit_count() for w in words]


def test_float_tiles_hold_output_16j_plus_l_in_lane_l() -> None:
    weights = np.arange(20 * 3, dtype=np.float32).reshape(20, 3)
    tiles = bits.tile_floats(weights)
    assert tiles.shape == (2, 3, 16)
    assert tiles[1, 2, 3] == weights[19, 2]
    assert not tiles[1, :, 4:].any()
