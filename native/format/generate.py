"""Write the C++ rules of the ops from their Python schema.

    python native/format/generate.py    after a change of src/bhvit/format

The result is committed, so that CMake needs no Python; a test fails where it is stale.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from bhvit.format.ops import SCHEMAS
from bhvit.format.schema import OPTIONS, OpSchema, TensorRule
from bhvit.spec.limits import LIMITS, MAX_OPS
from bhvit.spec.model import MAX_GRID_FLOATS

HERE = Path(__file__).resolve().parent
NOTE = "// clang-format off\n// Written by native/format/generate.py from the schema in src/bhvit/format; do not edit."
NODES = (ast.Expression, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.Load)
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.And, ast.Or, ast.Eq, ast.LtE)


def main() -> None:
    if absent := missing():
        raise SystemExit(f"an op of src/bhvit/format/ops has no native code: write {', '.join(map(str, absent))}")
    for path, text in files().items():
        path.write_text(text)
        print(f"wrote {path}")


def missing(root: Path = HERE.parent) -> list[Path]:
    """Files of ops that the generated code calls but nobody has written."""
    expected = [root / "engine" / "steps" / f"{kind}.cc" for kind in SCHEMAS]
    expected += [root / "kernels" / "ops" / f"{kind}.h" for kind in SCHEMAS]
    return [path for path in expected if not path.is_file()]


def files() -> dict[Path, str]:
    """Return the text of each generated file."""
    return {
        HERE / "ops.gen.h": header(),
        HERE / "op_rules.gen.cc": rules(),
        HERE.parent / "kernels" / "ops.gen.h": kernels(),
    }


def header() -> str:
    """Write the names of all ops as a macro, and the limits of a program."""
    return f"""{NOTE}

#pragma once

#include <cstdint>

// Calls X with the kind of every op.
#define BHVIT_OPS(X) {" ".join(f"X({kind})" for kind in SCHEMAS)}

namespace bhvit {{

constexpr int64_t kMaxOps = {MAX_OPS}, kMaxGridFloats = {MAX_GRID_FLOATS};

}}  // namespace bhvit
"""


def kernels() -> str:
    """Write the table of the kernels of all ops."""
    fields = [f"  {''.join(map(str.capitalize, kind.split('_')))}Kernels {kind};" for kind in SCHEMAS]
    lines = [NOTE, "\n#pragma once\n", *(f'#include "kernels/ops/{kind}.h"' for kind in SCHEMAS)]
    lines += ["\nnamespace bhvit {\n", "struct OpKernels {", *fields, "};", "\n}  // namespace bhvit\n"]
    lines.append("// What a file of an instruction set fills it with.")
    lines.append(f"#define BHVIT_OP_KERNELS {{{', '.join(f'.{kind} = {kind}_kernels()' for kind in SCHEMAS)}}}")
    return "\n".join([*lines, ""])


def rules() -> str:
    """Write limits, options and the rule of each op."""
    sizes = sorted({size for op in SCHEMAS.values() for size in expressions(op)})
    conditions = sorted({rule.when for op in SCHEMAS.values() for rule in op.tensors.values() if rule.when})
    shapes = sorted({rule.shape for op in SCHEMAS.values() for rule in op.tensors.values()})
    lines = [NOTE, '\n#include "format/schema.h"\n', "namespace bhvit {", "namespace {\n"]
    lines += [f"int64_t {size_name(size)}({argument(cpp(size))}) {{ return {cpp(size)}; }}" for size in sizes]
    lines.append("")
    lines += [f"bool {condition_name(when)}(const Op& op) {{ return {condition(when)}; }}" for when in conditions]
    lines.append("")
    lines += [f"constexpr Size {shape_name(shape)}[] = {{{', '.join(map(size_name, shape))}}};" for shape in shapes]
    lines.append("")
    for name, values in OPTIONS.items():
        lines.append(f"constexpr std::string_view {values_name(name)}[] = {{{strings(values)}}};")
    for kind, op in SCHEMAS.items():
        lines += op_lines(kind, op)
    lines += ["\nconstexpr Limit kLimits[] = {"]
    lines += [f'    {{"{name}", {limit}}},' for name, limit in LIMITS.items()]
    lines += ["};", "\nconstexpr OptionRule kOptions[] = {"]
    lines += [f'    {{"{name}", {values_name(name)}}},' for name in OPTIONS]
    lines += ["};", "\nconstexpr OpRule kRules[] = {"]
    for kind, op in SCHEMAS.items():
        parts = {"attributes": op.attributes, "options": op.options, "tensors": op.tensors, "inputs": op.inputs}
        lists = [f"k_{kind}_{part}" if entries else "{}" for part, entries in parts.items()]
        output = ", ".join(map(size_name, op.output))
        lines.append(f'    {{"{kind}", {", ".join(lists)}, check_{kind}, {{{output}}}}},')
    lines += ["};", "\n}  // namespace\n"]
    lines.append("std::span<const Limit> limits() { return kLimits; }")
    lines.append("std::span<const OptionRule> options() { return kOptions; }")
    lines.append("std::span<const OpRule> rules() { return kRules; }")
    return "\n".join([*lines, "\n}  // namespace bhvit\n"])


def op_lines(kind: str, op: OpSchema) -> list[str]:
    """Write the check and the tables of one op."""
    attributes = ", ".join(attribute(op, name) for name in op.attributes)
    checks = [f'  require({cpp(test)}, "{message}");' for test, message in op.rules]
    lines = [
        f"\nvoid check_{kind}({argument(''.join(checks))}) {{",
        *checks,
        "}",
        f"constexpr AttributeRule k_{kind}_attributes[] = {{{attributes}}};",
    ]
    if op.options:
        lines.append(f"constexpr std::string_view k_{kind}_options[] = {{{strings(op.options)}}};")
    if op.tensors:
        lines.append(f"constexpr TensorRule k_{kind}_tensors[] = {{")
        lines += [f"    {tensor(name, rule)}," for name, rule in op.tensors.items()]
        lines.append("};")
    if op.inputs:
        grids = ", ".join(f"{{{{{', '.join(map(size_name, grid))}}}}}" for grid in op.inputs)
        lines.append(f"constexpr Grid k_{kind}_inputs[] = {{{grids}}};")
    return lines


def attribute(op: OpSchema, name: str) -> str:
    """Write one attribute, with the one it equals where a file leaves it out."""
    return f'{{"{name}", "{op.defaults.get(name, "")}"}}'


def tensor(name: str, rule: TensorRule) -> str:
    """Write one tensor's rule."""
    present = condition_name(rule.when) if rule.when else "nullptr"
    return f'{{"{name}", {shape_name(rule.shape)}, {"true" if rule.weights else "false"}, {present}}}'


def expressions(op: OpSchema) -> Iterable[str]:
    """Yield the sizes that an op's tensors, its inputs and its output are made of."""
    yield from op.output
    for grid in op.inputs:
        yield from grid
    for rule in op.tensors.values():
        yield from rule.shape


def cpp(expression: str) -> str:
    """Translate an expression of attributes, which are all positive, to C++."""
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, (*NODES, *OPERATORS)):
            raise TypeError(f"{expression}: {type(node).__name__} has no translation")
    text = ast.unparse(tree).replace("//", "/").replace(" and ", " && ").replace(" or ", " || ")
    return re.sub(r"\b(?!tiles\b)[a-z_]+\b", lambda name: f'a.at("{name[0]}")', text)


def argument(code: str) -> str:
    """Write the parameter of a function of attributes, without a name where the code has no use for it."""
    return "const Dims& a" if "a." in code else "const Dims&"


def condition(when: str) -> str:
    """Translate the condition of a tensor."""
    parts = []
    for part in when.split():
        attribute, above, least = part.partition(">")
        option, _, value = part.partition("=")
        parts.append(f'op.attributes.at("{attribute}") > {least}' if above else f'op.is("{option}", "{value}")')
    return " && ".join(parts)


def strings(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def size_name(size: str) -> str:
    words = size.replace("//", " over ").replace("*", " times ").replace("+", " plus ").replace("-", " minus ")
    return "size_" + "_".join(re.findall(r"\w+", words))


def shape_name(shape: tuple[str, ...]) -> str:
    return "kShape_" + "__".join(size_name(size).removeprefix("size_") for size in shape)


def condition_name(when: str) -> str:
    return "if_" + "_".join(re.findall(r"\w+", when.replace(">", " above ")))


def values_name(option: str) -> str:
    return f"kValues_{option}"


if __name__ == "__main__":
    main()
