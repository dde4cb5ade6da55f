"""The bit contract: what a sign is, where its bit lies, and the NumPy oracle.

* +1 is bit 1 and -1 is bit 0; sign(0) = +1.
* Channel c of a token is bit c % 32 of 32-bit word c // 32. On a little-endian machine the same
  bytes read as 64-bit words put channel c at bit c % 64 of word c // 64, so kernels may use
  either width. Bits past the last channel are zero.
* Weights of a binary layer with O outputs and K inputs are tiled by `LANES` = 16 outputs:
  word [j, w, l] holds inputs 32w .. 32w+31 of output 16j + l, so that one 512-bit load gives the
  same 32 inputs of 16 neighbouring outputs. Rows past the last output are zero.
* A dot product of K signs is K - 2 * popcount(a XOR w). Zero bits of the tail agree on both sides
  and add nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]

WORD = 32
"""Bits of a word."""
LANES = 16
"""Output channels of one weight tile; channel counts are multiples of it."""


def words_for(bits: int) -> int:
    """Return how many words hold `bits` bits."""
    return -(-bits // WORD)


def pack_bits(positive: npt.NDArray[np.bool_]) -> Words:
    """Pack truth values (..., K) into words (..., words_for(K)); K may be any length."""
    length = positive.shape[-1]
    tail = words_for(length) * WORD - length
    padded = np.pad(positive, [(0, 0)] * (positive.ndim - 1) + [(0, tail)])
    return np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little")).view("<u4")


def pack_signs(values: npt.NDArray[np.floating]) -> Words:
    """Pack the signs of floats (..., K) into words (..., words_for(K)); sign(0) = +1."""
    return pack_bits(values >= 0)


def unpack_signs(words: Words, length: int) -> npt.NDArray[np.int32]:
    """Unpack words (..., W) into signs (..., length), each -1 or +1."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    return bits[..., :length].astype(np.int32) * 2 - 1


def tile_weights(signs: npt.NDArray[np.floating]) -> Words:
    """Tile the signs of weights (O, K) as words (ceil(O/16), words_for(K), 16)."""
    outputs = signs.shape[0]
    rows = pack_signs(signs)
    rows = np.pad(rows, [(0, -outputs % LANES), (0, 0)])
    return np.ascontiguousarray(rows.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1))


def untile_weights(tiles: Words, outputs: int) -> Words:
    """Undo `tile_weights`: words (tiles, W, 16) become words (outputs, W)."""
    return np.ascontiguousarray(tiles.transpose(0, 2, 1)).reshape(-1, tiles.shape[1])[:outputs]


def tile_floats(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Tile full-precision weights (O, K) as (ceil(O/16), K, 16), for float layers."""
    rows = np.pad(weights, [(0, -weights.shape[0] % LANES), (0, 0)])
    return np.ascontiguousarray(rows.reshape(-1, LANES, rows.shape[1]).transpose(0, 2, 1))


def popcount(words: Words) -> npt.NDArray[np.int32]:
    """Count the set bits of each word."""
    count = words - ((words >> 1) & np.uint32(0x55555555))
    count = (count & np.uint32(0x33333333)) + ((count >> 2) & np.uint32(0x33333333))
    count = (count + (count >> 4)) & np.uint32(0x0F0F0F0F)
    return ((count * np.uint32(0x01010101)) >> 24).astype(np.int32)


def binary_dot(activations: Words, weights: Words, length: int) -> npt.NDArray[np.int32]:
    """Compute dot products (T, O) of `length` signs in words (T, W), (O, W)."""
    differing = np.zeros((activations.shape[0], weights.shape[0]), np.int32)
    for word in range(activations.shape[1]):
        differing += popcount(activations[:, None, word] ^ weights[None, :, word])
    return length - 2 * differing
