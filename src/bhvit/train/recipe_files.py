"""Recipes: TOML files of settings, one recipe a file.

Their keys are those of `TrainConfig.from_dict`; what the caller gives comes after them.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_regular
from ..spec.values import nearest, tomllib
from .config import flatten, known


def recipe_names() -> list[str]:
    """Names that `load_recipe` knows, sorted."""
    folder = importlib.resources.files(__package__) / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def default_recipe(data: str, task: str = "classify", own_model: bool = False) -> str:
    """The recipe for a data source and task where none is named; `own_model`: from scratch, not from a bundled one."""
    if task == "segment":
        return "scene" if own_model else "segment"
    return "digits" if data == "digits" else "small"


def load_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by name or as the path of a TOML file.

    Raises UserError if there is none, or it is not TOML, or has an unknown key.
    """
    if name in recipe_names():
        text = (importlib.resources.files(__package__) / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml"):
        check_regular(Path(name))
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {name}: {error}") from None
    else:
        raise UserError(f"there is no recipe {name!r}{nearest(name, recipe_names())}")
    toml = tomllib()
    try:
        read = toml.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and nested too deeply
        raise UserError(f"the recipe {name} is not TOML: {error}") from None
    values = flatten(read)
    values.pop("description", None)
    for key in values:
        known(key)
    return values


def merged(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe and those given after it, by dotted name.

    What is given for the whole run also replaces what the recipe says of single phases. A recipe's warm-up fits its
    own length: where `epochs` is given, it is shortened to half of that.
    """
    given = flatten(given)
    kept = {name: value for name, value in recipe.items() if phase_setting(name) not in given}
    values = {**kept, **given}
    for name, warmup in kept.items():
        if not name.endswith("warmup_epochs"):
            continue
        epochs = given.get(name.removesuffix("warmup_epochs") + "epochs", given.get("epochs"))
        if isinstance(warmup, int | float) and isinstance(epochs, int | float):  # else `TrainConfig` refuses them
            values[name] = min(warmup, epochs / 2)
    return values


def phase_setting(name: str) -> str | None:
    """Return the setting of a phase: "lr" of "phases.1.lr"; None for the whole run's."""
    return name.split(".", 2)[2] if name.startswith("phases.") else None
