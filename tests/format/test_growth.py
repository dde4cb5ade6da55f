"""Reading a bad file takes time in proportion to its size, whatever it holds."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from bhvit import _native
from bhvit.errors import FormatError
from bhvit.format import file as bhv_file
from bhvit.format import strict_json
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_model
from helpers.sealed_file import sealed

MASK, MUL = (1 << 64) - 1, 0xC6A4A7935BD1E995
INVERSE = pow(MUL, -1, 1 << 64)


def murmur(data: bytes) -> int:
    """std::hash of a string in libstdc++, MurmurHash2 of 64 bits, for whole blocks of 8 bytes."""
    value = 0xC70F6907 ^ (len(data) * MUL & MASK)
    for at in range(0, len(data), 8):
        block = int.from_bytes(data[at : at + 8], "little") * MUL & MASK
        value = (value ^ ((block ^ block >> 47) * MUL & MASK)) * MUL & MASK
    value = (value ^ value >> 47) * MUL & MASK
    return value ^ value >> 47


def colliding_keys(count: int) -> list[str]:
    """Keys of two blocks; the second takes the state of that hash to zero, whatever the first is."""
    mul, inverse = np.uint64(MUL), np.uint64(INVERSE)
    seed, found = np.uint64(0xC70F6907 ^ (16 * MUL & MASK)), list[str]()
    digits = np.arange(16, dtype=np.uint64) + np.uint64(0x61)
    for part in range(1 << 12):
        numbers = np.arange(part << 20, part + 1 << 20, dtype=np.uint64)
        first = np.zeros_like(numbers)
        for place in range(8):
            first |= digits[(numbers >> np.uint64(4 * place)) & np.uint64(15)] << np.uint64(8 * place)
        mixed = first * mul
        state = (seed ^ (mixed ^ mixed >> np.uint64(47)) * mul) * mul
        second = state * inverse
        second = (second ^ second >> np.uint64(47)) * inverse
        letters = second[:, None].view(np.uint8)
        plain = ((letters >= 0x20) & (letters < 0x7F) & (letters != ord('"')) & (letters != ord("\\"))).all(axis=1)
        pairs = np.stack([first[plain], second[plain]], axis=1)
        found += [pair.tobytes().decode() for pair in pairs]
        if len(found) >= count:
            break
    return found[:count]


def seconds(read: Callable[[], object]) -> float:
    """The CPU time of a refusal, the least of five, without the garbage collector's passes over all other objects."""
    least = float("inf")
    gc.disable()
    try:
        for _ in range(5):
            begin = time.process_time()
            with pytest.raises(FormatError):
                read()
            least = min(least, time.process_time() - begin)
    finally:
        gc.enable()
    return least


def test_keys_of_equal_hashes_cost_no_more() -> None:
    """Growth, not seconds: eight times as many keys take about eight times as long, never sixty-four times."""
    keys = colliding_keys(1 << 13)
    assert len(set(keys)) == 1 << 13
    assert len({murmur(key.encode()) for key in keys[:99]}) == 1

    def header(count: int) -> bytes:
        members = ",".join(f'"{key}":0' for key in keys[:count])
        return sealed("{" + members + ',"__metadata__":{}}', b"")

    for read in (_native.Program, bhv_file.from_bytes):
        small, large = header(1 << 10), header(1 << 13)
        assert seconds(partial(read, large)) < 30 * seconds(partial(read, small)) + 0.01


@pytest.mark.parametrize("kind", ["an object of many keys", "an array in arrays", "escapes", "quotes that never end"])
def test_strict_json_is_linear(kind: str) -> None:
    def text(count: int) -> str:
        return {
            "an object of many keys": "{" + ",".join(f'"{index}":0' for index in range(count // 8)) + "}x",
            "an array in arrays": "[" + "[[]]," * (count // 5) + "x",
            "escapes": '"' + "\\u0041" * (count // 6),
            "quotes that never end": '"' + '\\"' * (count // 2),
        }[kind]

    def refuse(count: int) -> Callable[[], object]:
        made = text(count)
        return lambda: strict_json.loads(made, "it", 1 << 20)

    assert seconds(refuse(1 << 19)) < 30 * seconds(refuse(1 << 16)) + 0.01


def test_an_unknown_tensor_is_found_in_linear_time() -> None:
    def file(blocks: int) -> bytes:
        stage = StageSpec(depth=blocks, channels=32, hidden=32, mixer="pooled_attention", heads=1)
        spec = ModelSpec(name="many", img_size=(2, 2), patch=1, in_chans=1, num_classes=2, stages=(stage,))
        data = bhv_file.to_bytes(random_model(spec))
        length = int.from_bytes(data[:8], "little")
        header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
        header["__metadata__"]["checksum"] = "00000000"
        header["zzz"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(tensors), len(tensors) + 4]}
        return sealed(json.dumps(header, separators=(",", ":")), tensors + bytes(4))

    small, large = file(16), file(128)
    with pytest.raises(FormatError, match="tensor zzz belongs to no op"):
        _native.Program(large)
    assert seconds(lambda: _native.Program(large)) < 30 * seconds(lambda: _native.Program(small)) + 0.01


@pytest.mark.parametrize("piece", ["\\n", "a\\n", "\\u0041", '\\"', "\\\\"])
def test_escapes_take_memory_in_proportion_to_the_text(piece: str) -> None:
    """`re` keeps a record of each repetition of a group: 100 bytes for each of the text's."""
    text = f'["{piece * ((1 << 20) // len(piece))}"]'
    tracemalloc.start()
    try:
        strict_json.loads(text, "a text")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * len(text)
