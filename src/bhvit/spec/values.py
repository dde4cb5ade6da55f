"""Settings by name: checking values, suggesting names, parsing text."""

from __future__ import annotations

import csv
import difflib
import importlib
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ..errors import UserError, listed, require_extra


def nearest(name: str, names: Iterable[str], marks: str = "", limit: int | None = None) -> str:
    """Suggest the nearest of `names`, or list all of them, or the first `limit`, if none is near.

    The text follows "there is no ..." in a message.

    `marks` are characters that names begin with and that make none near: the dashes of options.
    """
    bare = {known.lstrip(marks): known for known in names}
    name = name.lstrip(marks)
    # Letters in another order are near, however short the name.
    near = difflib.get_close_matches(name, bare, n=1) or [n for n in bare if sorted(n) == sorted(name)]
    if near:
        return f"; did you mean {bare[near[0]]}?"
    more = f", … ({len(bare)} in all)" if limit is not None and len(bare) > limit else ""
    return f"; known: {listed(list(bare.values())[:limit])}{more}"


def convert(name: str, kind: Any, value: Any) -> Any:
    """Return `value` as the type of the setting `name`.

    Whole numbers serve as float, one number as a square size.

    Raises UserError naming the setting and what it takes.
    """
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option == tuple[int, ...]:
            if isinstance(value, list | tuple) and all(_is_int(number) for number in value):
                return tuple(value)
        elif option == tuple[str, ...]:
            words = _names(value) if isinstance(value, str) else value  # "road,pavement" as well
            if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
                return tuple(words)
        elif option == tuple[float, ...]:
            numbers = [_float(number) for number in value] if isinstance(value, list | tuple) else [None]
            if None not in numbers:
                return tuple(numbers)
        elif typing.get_origin(option) is tuple and (size := _size(value)) is not None:
            return size
        if option is float and (number := _float(value)) is not None:
            return number
        if (option is int and _is_int(value)) or (option in (str, bool) and isinstance(value, option)):
            return value
    wanted = " or ".join(_type_name(option) for option in options)
    raise UserError(f"{name} must be {wanted}, not {value!r}")


def parse_size(text: str) -> tuple[int, int]:
    """A size, "224" or "192x256", as (H, W). Raises UserError."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UserError(f"a size is a number of pixels or HEIGHTxWIDTH, not {text!r}")
    return int(parts[0]), int(parts[-1])


def parse_setting(text: str, known: Callable[[str], str]) -> tuple[str, Any]:
    """Split "key=value": the value is what TOML makes of it, or else a string.

    `known` gives a name back or raises UserError; so does a text without "=".
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes key=value, not {text!r}")
    name, toml = known(name.strip()), tomllib()
    try:
        return name, toml.loads(f"value = {value}")["value"]
    except ValueError:  # no TOML, or a number of thousands of digits
        return name, value.strip()


def tomllib() -> Any:
    """The TOML parser: the standard library's, or before Python 3.11 the one that training brings."""
    try:
        return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:
        raise require_extra("tomli", "train") from None


def is_finite(value: Any) -> bool:
    """Whether a value is a number, finite as a float, and neither True nor False."""
    try:
        return type(value) is not bool and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _size(value: Any) -> tuple[int, int] | None:
    """A size (H, W) from a text, one edge or two; None for anything else."""
    if isinstance(value, str):
        try:
            return parse_size(value)
        except UserError:
            return None
    pair = (value, value) if _is_int(value) else value
    return (pair[0], pair[1]) if isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_int, pair)) else None


def _names(text: str) -> list[str]:
    """Names separated by commas; one that holds a comma stands in quotes."""
    return [name for row in csv.reader(text.splitlines(), skipinitialspace=True) for name in row]


def _float(value: Any) -> float | None:
    """A number as float; None for anything else, and for whole numbers beyond every float."""
    try:
        return float(value) if _is_int(value) or isinstance(value, float) else None
    except OverflowError:
        return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if kind == tuple[int, ...]:
        return "a list of whole numbers"
    if kind == tuple[str, ...]:
        return "a list of names"
    if kind == tuple[float, ...]:
        return "a list of numbers"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(kind, "a size (one edge or HEIGHTxWIDTH)")
