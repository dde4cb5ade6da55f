"""JSON of files from anybody, read as strictly as the native reader does (`native/format/json.h`)."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..errors import FormatError

MAX_DEPTH = 32
"""Objects and arrays within each other, as in the native reader."""
MAX_VALUES = 1 << 16
"""Values of a text, names of members not counted."""
MAX_NUMBER = 400
"""Characters of a number."""
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_TOKENS = re.compile(r'"[^"]*"?|[\[{][ \t\n\r]*[\]}]|[\[\]{},]')
"""Strings without their escapes, to be passed over; empty objects and arrays; what opens, closes and separates. Every
match is linear, and repeats no group, for which `re` would keep a record of each repetition."""


def loads(text: str | bytes, what: str, max_values: int = MAX_VALUES) -> Any:
    """Return the value that a JSON text holds.

    `what` names the text in messages. Raises FormatError for whatever RFC 8259 does not allow, and for repeated keys,
    halves of surrogate pairs, numbers that a double does not hold, and more depth or values than the limits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        _check_limits(text, max_values)
        value = json.loads(
            text, object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
        )
        if "\\u" in text:
            _check_surrogates(value)
        return value
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is damaged: no UTF-8 at byte {error.start}") from None
    except FormatError as error:
        raise FormatError(f"{what} is damaged: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is damaged: {error}") from None


def _check_limits(text: str, max_values: int) -> None:
    depth, values = 0, 1
    for match in _TOKENS.finditer(_ESCAPE.sub("", text)):
        first = match[0][0]
        if first in "[{" and len(match[0]) == 1:
            depth += 1
            values += 1  # the first of its values; a comma stands before each of the others
            if depth > MAX_DEPTH:
                raise FormatError("nested too deeply")
        elif first in "]}":
            depth -= 1
        elif first == ",":
            values += 1
        if values > max_values:
            raise FormatError("too many values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("repeated key")
    return found


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER else math.nan
    zero = not re.search("[1-9]", re.split("[eE]", text)[0])
    if not math.isfinite(value) or (value == 0 and not zero):
        raise FormatError("a number is out of range")
    return value


def _integer(text: str) -> int | float:
    """Parse a whole number, which must fit a double if longer than 18 characters."""
    if text == "-0":
        return -0.0
    if len(text) > 18:
        _float(text)
    return int(text)


def _constant(text: str) -> float:
    raise FormatError(f"{text} is no number")


def _check_surrogates(value: Any) -> None:
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError:
                raise FormatError("half of a surrogate pair") from None
        elif isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, list):
            left += part
