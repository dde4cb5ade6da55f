"""Whether a pickle can be unpickled in a time that grows with its size."""

from __future__ import annotations

import pickletools
from typing import IO, Any

PICKLES = 5
"""Pickles one after the other in a file of PyTorch before 1.6: a number, a version, the system, the state, its keys."""
_WORK = 64
"""Elements that tuples may hold for each byte, if what they share counted each time."""


def check_work(file: IO[bytes], size: int, pickles: int = 1) -> None:
    """Raise ValueError if the tuples of a file's first pickles hold far more than their bytes.

    A tuple of twice a tuple of twice a tuple, and so on, takes few bytes, and hashing it, as a key of a dictionary,
    takes for ever. `size` is that of the file.
    """
    left = _WORK * size
    for _ in range(pickles):
        stack: list[int] = []  # of each object, the elements that it holds: of a tuple those of its elements
        memo: dict[int, int] = {}
        for code, given, _ in pickletools.genops(file):
            made = _step(code, given, stack, memo)
            left -= made
            if left < 0:
                raise ValueError("its tuples hold each other too many times")


_MARK = 0
"""What stands on the stack for the mark of an opcode; objects hold 1 or more."""


def _step(code: Any, given: Any, stack: list[int], memo: dict[int, int]) -> int:
    """Take a step as an unpickler does; return the elements of the tuple that it makes or fetches."""
    name = code.name
    if name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[int(given)] = stack[-1]
        return 0
    if name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
        return 0
    if name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(given)])
        return stack[-1]
    taken: list[int] = []
    if pickletools.markobject in code.stack_before:
        while (item := stack.pop()) != _MARK:
            taken.append(item)
        fixed = code.stack_before.index(pickletools.markobject)
    else:
        fixed = len(code.stack_before)
    below = [stack.pop() for _ in range(fixed)]
    if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        stack.append(1 + sum(taken) + sum(below))
        return stack[-1]
    if name == "DUP":
        stack += below * 2
        return below[0]
    stack += [_MARK if kind is pickletools.markobject else 1 for kind in code.stack_after]
    return 0
