"""Generated pages have every setting, override, command, declaration and op; figures are those of their script."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bhvit.format.schema import SCHEMAS as OPS
from bhvit.models import list_models
from bhvit.spec.model import StageSpec
from bhvit.spec.overrides import EVERY_STAGE, MODEL_OVERRIDES
from bhvit.train import TrainConfig, recipe_names
from bhvit.train.config import FIELDS
from helpers.site import DOCS, ROOT, commands, script

MODELS = set(list_models())  # before other tests register theirs
PAGES: dict[str, str] = script("generate").pages()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of tables whose first cell begins with code, by that code."""
    found = re.findall(r"^\| `([^`]+)`.*$", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {
        name: [cell.strip() for cell in line.strip("|").split("|")] for name, line in zip(found, lines, strict=True)
    }


def test_every_setting_has_its_default_and_a_meaning() -> None:
    settings, _, recipes = PAGES["reference/settings.md"].partition("## Recipes")
    table = rows(settings)
    assert set(table) == set(FIELDS)
    for field in dataclasses.fields(TrainConfig):
        if field.name in FIELDS:
            _, default, meaning = table[field.name]
            assert meaning, field.name
            words = {"True": "`true`", "False": "`false`", "None": "none"}
            required = field.default is dataclasses.MISSING
            assert default == ("required" if required else words.get(str(field.default), f"`{field.default}`"))
    assert set(rows(recipes)) == set(recipe_names())


def test_every_override_has_values_and_a_meaning() -> None:
    table = rows(PAGES["reference/overrides.md"])
    stage = {f"stages.N.{field.name}" for field in dataclasses.fields(StageSpec)}
    assert set(table) == set(MODEL_OVERRIDES) | stage
    assert all(all(cells) for cells in table.values()), table
    assert {name[9:] for name in stage if table[name][0].endswith("*")} == set(EVERY_STAGE)


def test_every_command_and_option_is_documented() -> None:
    page = PAGES["reference/cli.md"]
    for name, command in commands().items():
        section = page.partition(f"## bhvit {name} ")[2].partition("\n## ")[0]
        for option in command._actions:
            assert all(f"`{text}`" in section for text in option.option_strings), (name, option)


def test_every_declaration_of_the_c_api_is_documented() -> None:
    header = (ROOT / "native" / "api" / "bhvit.h").read_text(encoding="utf-8")
    calls = set(re.findall(r"\b(bhvit_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)))
    page = PAGES["reference/c-api.md"]
    assert len(calls) >= 9
    assert {name for name in calls if f"{name}(" not in page} == set()
    types = set(re.findall(r"^} (bhvit_\w+);", header, re.MULTILINE))
    assert types >= {"bhvit_status", "bhvit_info"}
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == calls | types
    assert "} bhvit_info;" in page
    assert "BHVIT_FORMAT = 3" in page


@pytest.mark.parametrize("kind", OPS)
def test_every_op_is_specified(kind: str) -> None:
    section = PAGES["reference/ops.md"].partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    for name in (*OPS[kind].attributes, *OPS[kind].tensors, *OPS[kind].options):
        assert f"`{name}`" in section, name


def test_every_model_is_counted() -> None:
    assert set(rows(PAGES["reference/models.md"])) == MODELS


def test_every_benchmark_page_is_shown_with_working_links() -> None:
    pages = {uri for uri in PAGES if uri.startswith("benchmarks/")}
    assert len(pages) == 1 + len(list((ROOT / "benchmarks").glob("*/*.md")))
    for uri in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[uri]):
            path = ((DOCS / uri).parent / target).resolve().relative_to(DOCS)
            shown = str(path) in PAGES or (DOCS / path).exists()
            assert shown or (path.suffix == ".jpg" and (ROOT / path).exists()), (uri, target)  # `on_files` adds these


@pytest.mark.parametrize("name", sorted(script("draw_figures").figures()))
def test_figures_are_those_of_their_script(name: str) -> None:
    assert (DOCS / "figures" / name).read_text(encoding="utf-8") == script("draw_figures").figures()[name]
