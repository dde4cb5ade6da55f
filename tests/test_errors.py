"""Messages of errors the user can correct."""

from __future__ import annotations

import pickle

import pytest

from bhvit.errors import LONGEST, FormatError, UserError, listed
from bhvit.spec.values import convert
from bhvit.text import some


def test_a_message_is_one_line() -> None:
    assert str(UserError("first\n  second\tthird")) == "first second third"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("a\x9b2J", "a\\u009b2J"),
        ("caf\udce9", "caf\\udce9"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("猫 é 😀", "猫 é 😀"),
    ],
)
def test_control_characters_are_escaped(name: str, shown: str) -> None:
    assert str(FormatError(f"{name}: damaged")) == f"{shown}: damaged"


def test_a_long_value_is_cut_in_the_middle() -> None:
    message = str(UserError("no model " + "x" * 1_000_000 + "; use another"))
    assert len(message) <= LONGEST + 3
    assert message.startswith("no model x")
    assert message.endswith("x; use another")


def test_errors_pickle() -> None:
    error = pickle.loads(pickle.dumps(UserError("no file a.bhv")))
    assert (type(error), str(error)) == (UserError, "no file a.bhv")


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ["goldfish, Carassius auratus", "cat"],
        ['a "good", dog', 'a "dog"', " dog", "dog "],
        ["", "cat"],
    ],
)
def test_lists_of_names_can_be_told_apart(names: list[str]) -> None:
    assert convert("foreground", tuple[str, ...], listed(names)) == tuple(names)


def test_lists_quote_names_with_commas() -> None:
    assert listed(["cat", "dog"]) == "cat, dog"
    assert some(["goldfish, Carassius auratus", "cat", "dog"], 2) == '"goldfish, Carassius auratus", cat and 1 more'
