"""Reference pages as Markdown, made from the code: settings, overrides, models, commands, C API, ops."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "bhvit"


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass and its bases, one line each."""
    docs: dict[str, str] = {}
    for base in cls.__bases__:
        if dataclasses.is_dataclass(base):
            docs |= field_docs(base)
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    for field, text in zip(body, body[1:]):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
            continue
        if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs


def fields(cls: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, str]]:
    """Yield each field of a dataclass with its type and docstring."""
    kinds, docs = typing.get_type_hints(cls), field_docs(cls)
    for field in dataclasses.fields(cls):
        yield field, kinds[field.name], docs.get(field.name, "")


def cell(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "&#124;")


def default(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field for a table."""
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    return "none" if value is None else f"`{_toml(value)}`"


def settings_page() -> str:
    """Tabulate the recipes and the settings of training."""
    from bhvit.train import TrainConfig, load_recipe, recipe_names

    rows = [
        f"| `{field.name}` | {default(field)} | {cell(doc)} |"
        for field, _, doc in fields(TrainConfig)
        if field.name not in ("overrides", "phases")
    ]
    recipes = []
    for name in recipe_names():
        values = ", ".join(f"`{key}={_toml(value)}`" for key, value in load_recipe(name).items())
        recipes.append(f"| `{name}` | {cell(_recipe_description(name))} | {cell(values)} |")
    return f"""# Training settings

Every setting has the same name on the command line (`bhvit train --set lr=1e-3`), in a recipe (`lr = 1e-3`), in Python
(`TrainConfig(lr=1e-3)`) and in a run's `config.json`. [Overrides of the model](overrides.md) stand next to them.

| Setting | Default | Meaning |
|---|---|---|
{chr(10).join(rows)}

## Recipes

`bhvit train --recipe NAME` starts from these settings; what is given on the command line comes after them. A recipe of
your own is a TOML file: `--recipe mine.toml`.

| Recipe | For | Settings |
|---|---|---|
{chr(10).join(recipes)}
"""


def _recipe_description(name: str) -> str:
    text = (PACKAGE / "train" / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].partition("=")[2].strip().strip('"')


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def overrides_page() -> str:
    """Tabulate the fields of a model's spec that may be overridden by name."""
    from bhvit.spec.model import ModelSpec, StageSpec

    every_stage, model = _override_names()
    rows = [
        f"| `{field.name}` | {values(kind)} | {default(field)} | {cell(doc)} |"
        for field, kind, doc in fields(ModelSpec)
        if field.name in model
    ]
    stage = [
        f"| `stages.N.{field.name}`{' *' if field.name in every_stage else ''} | {values(kind)} | {default(field)} | "
        f"{cell(doc)} |"
        for field, kind, doc in fields(StageSpec)
    ]
    head = "| Override | Values | Default | Meaning |\n|---|---|---|---|\n"
    return f"""# Model overrides

Every part that the papers vary is a field of the model's spec, and every such field can be overridden by name:
`bhvit train --set attention=gsb`, `bhvit info NAME --set norm=layer`, in a recipe, or in Python
(`bhvit.create_model(NAME, attention="gsb")`). [Run ablations](../how-to/ablations.md) shows how.

## Of the whole model

{head}{chr(10).join(rows)}

`shifts` also takes the words `none`, `3`, `5` and `both`.

## Of one stage

N counts stages from 0. Fields marked * may be given without `stages.N.`, for all stages. A value for one stage takes
precedence over one for all.

{head}{chr(10).join(stage)}
"""


def _override_names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields that may be given for all stages, and those of the whole model."""
    from bhvit.spec import overrides

    return overrides.EVERY_STAGE, overrides.MODEL_OVERRIDES


def values(kind: Any) -> str:
    """Describe the values of a type for a table."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    options = typing.get_args(kind) if union else (kind,)
    words = []
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            words += [f"`{value}`" for value in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append("a list of whole numbers" if Ellipsis in typing.get_args(option) else "a number or `HxW`")
        else:
            names = {int: "a whole number", bool: "`true`, `false`", float: "a number", str: "text"}
            words += [names[option]] if option in names else []
    return ", ".join(words)


def models_page() -> str:
    """Tabulate the models with their counts at their usual size."""
    from bhvit.cost.counts import op_costs, total
    from bhvit.models import list_models, model_spec

    rows = []
    for name in list_models():
        spec = model_spec(name)
        cost = total(op_costs(spec))
        stages = "; ".join(f"{s.depth} × {s.mixer}, {s.channels} channels" for s in spec.stages)
        rows.append(
            f"| `{name}` | {spec.img_size[0]}×{spec.img_size[1]} | {cost.parameters / 1e6:.2f} M | "
            f"{cost.binary_macs / 1e9:.2f} G | {cost.float_macs / 1e6:.1f} M | {cost.ops / 1e8:.2f}e8 | {stages} |"
        )
    return f"""# Models

Counted at each model's usual image size with 1000 classes; `bhvit info NAME` counts them at any size.

| Name | Image | Parameters | Binary MACs | Full-precision MACs | OPs | Stages |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

OPs are binary multiply-accumulates / 64 + full-precision ones, as the papers count them. `_fp` is the published †
variant, whose downsampling layers are full precision. `binaryvit_*` is BinaryViT, built from the same layers.
"""


def cli_page() -> str:
    """Document every command from its parser."""
    os.environ.setdefault("COLUMNS", "100")
    from bhvit.cli.main import build_parser

    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    parts = ["# Command line\n", f"{parser.description}\n", "| Command | Purpose |", "|---|---|"]
    parts += [f"| [`bhvit {name}`](#bhvit-{name}) | {cell(summaries[name])} |" for name in commands.choices]
    parts.append(
        "\nExit status: 0 success; 1 the answer is no (verification or the demo failed); 2 an error that the user can "
        "correct, named in one line on standard error, or pictures that could not be read; 130 interrupted; 141 the "
        "reader of the output has gone; 143 terminated.\n"
    )
    for name, command in commands.choices.items():
        parts += [
            f"## bhvit {name} {{#bhvit-{name}}}\n",
            f"{command.description}\n",
            "```text",
            _usage(command),
            "```\n",
        ]
        rows = [_option_row(action) for action in command._actions if action.help != argparse.SUPPRESS]
        parts += ["| Argument | Meaning |", "|---|---|", *rows, ""]
        example = (command.epilog or "").partition("\n")[2]
        parts += ["```sh", inspect.cleandoc("\n" + example), "```\n"]
    return "\n".join(parts)


def _usage(command: argparse.ArgumentParser) -> str:
    words = " ".join(command.format_usage().removeprefix("usage: ").split())
    return textwrap.fill(words, 84, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _option_row(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    if not value and action.nargs != 0:
        value = action.dest.upper() if action.option_strings else action.dest
    shown = f"{names} `{value}`" if names and value else names or f"`{value}`"
    text = (action.help or "").replace("%(default)s", str(action.default))
    return f"| {cell(shown)} | {cell(text)} |"


def c_api_page() -> str:
    """Document the C header: each declaration with the comment before it."""
    header = next(ROOT.glob("native/**/bhvit.h")).read_text(encoding="utf-8")
    intro, _, rest = header.partition("*/")
    rest = rest.partition('extern "C" {')[2].partition("#endif")[2].partition("#ifdef __cplusplus")[0]
    parts = ["# C API\n", _comment(intro), "\n## Declarations\n"]
    for comment, declaration in re.findall(
        r"(/\*.*?\*/)?\n*((?:typedef|BHVIT_API)[^;{]*(?:\{.*?\}[^;]*)?;)", rest, re.S
    ):
        call = declaration.startswith("BHVIT_API")
        if call or "{" in declaration:
            (name,) = re.findall(r"(\w+)\(" if call else r"(\w+);$", declaration)
            parts.append(f"### {name}\n")
        parts += ["```c", declaration.strip(), "```\n", _comment(comment) + "\n"]
    return "\n".join(parts)


def _comment(text: str) -> str:
    """Return the prose of a C comment; code indented by two spaces more becomes a block."""
    lines = [re.sub(r"^\s?\*? ?", "", line) for line in text.strip().removeprefix("/*").removesuffix("*/").splitlines()]
    out: list[str] = []
    for line in lines:
        code = line.startswith("  ")
        out.append(("    " if code else "") + line.strip())
    return "\n".join(out).strip()


def ops_page() -> str:
    """Document every op of the `.bhv` format: attributes, options, tensors and arithmetic."""
    from bhvit.format import program, schema
    from bhvit.format.ops import OPS, attend
    from bhvit.spec.limits import LIMITS

    parts = [
        "# Ops\n",
        "The ops of a `.bhv` program. [The .bhv format](bhv-format.md) says how they are stored.\n",
        "## Options\n",
        "An option that has its default is left out of the file.\n",
        "Shapes and conditions are expressions of the attributes; `tiles(n)` is n / 16 rounded up. Tensors of type",
        "weights are bits, or floats where the option `weights` is `float`.\n",
        "| Option | Values, the default first |\n|---|---|",
        *(f"| `{name}` | {', '.join(f'`{value}`' for value in allowed)} |" for name, allowed in schema.OPTIONS.items()),
        "\n## Arithmetic\n",
        "```text",
        inspect.cleandoc(program.__doc__ or ""),
        "",
        inspect.cleandoc(attend.__doc__ or ""),
        "```\n",
    ]
    for name, definition in OPS.items():
        op = definition.schema
        parts += [
            f"## {name}\n",
            "```text",
            inspect.cleandoc(definition.arithmetic or ""),
            "```\n",
            "| Attribute | Range |\n|---|---|",
        ]
        parts += [f"| `{attribute}` | 1 to {LIMITS[attribute]} |" for attribute in op.attributes]
        parts += [f"\n`{name}` is left out where it equals `{other}`." for name, other in op.defaults.items()]
        parts.append(f"\nOptions: {', '.join(f'`{option}`' for option in op.options) or 'none'}.\n")
        if op.rules:
            parts.append("Conditions: " + "; ".join(f"`{condition}`" for condition, _ in op.rules) + ".\n")
        parts.append(f"Leaves x of shape ({', '.join(op.output)}).\n")
        parts.append("| Tensor | Shape | Type | Present |\n|---|---|---|---|")
        for tensor, rule in op.tensors.items():
            shape = ", ".join(rule.shape)
            kind = "weights" if rule.weights else "float"
            parts.append(f"| `{tensor}` | ({shape}) | {kind} | {f'if `{rule.when}`' if rule.when else 'always'} |")
        parts.append("")
    return "\n".join(parts)
