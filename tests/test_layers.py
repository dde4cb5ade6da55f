"""What may depend on what; the arrows among Python modules are held by import-linter (`make lint`)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from helpers.without_torch import WITHOUT_TORCH

ROOT = Path(__file__).resolve().parents[1]


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_bhvit_loads_neither_torch_nor_the_native_code() -> None:
    assert (
        _python("import sys, bhvit; print([m for m in ('torch', 'numpy', 'bhvit._native') if m in sys.modules])")
        == "[]"
    )


def test_public_names_are_all_there_and_stay_what_they_are() -> None:
    """No subpackage has the name of a public function: importing it would replace the function."""
    code = "import bhvit, bhvit.packing\nfor _ in range(2):\n    assert all(map(callable, map({get}, names))), names"
    get = "lambda name: getattr(bhvit, name)"
    _python("import bhvit; names = [name for name in bhvit.__all__ if name[0] != '_']\n" + code.format(get=get))


def test_the_runtime_opens_without_torch() -> None:
    _python(WITHOUT_TORCH + "import bhvit, bhvit.runtime.reference; bhvit.Session")


def test_a_missing_extra_is_reported_with_the_install_command() -> None:
    code = WITHOUT_TORCH + "import bhvit\ntry:\n    bhvit.create_model\nexcept bhvit.UserError as e:\n    print(e)"
    assert _python(code) == (
        "this needs torch, which is not installed: install bhvit with the extra 'train', "
        "for example pip install '.[train]' in its checkout"
    )


# What the files of each folder of native/ may include, in addition to their own folder.
NATIVE = {
    "kernels": set(),
    "format": set(),
    "engine": {"format", "kernels"},
    "training": {"engine"},
    "api": {"engine", "format"},
}


def test_native_files_include_only_what_lies_below_them() -> None:
    """api → engine → format, engine → the kernels' function table; and kernel files know no C++ library."""
    files = [path for path in sorted((ROOT / "native").rglob("*.*")) if path.suffix in (".h", ".cc")]
    assert files
    for path in files:
        folder = path.relative_to(ROOT / "native").parts[0]
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE):
            assert name.partition("/")[0] in NATIVE[folder] | {folder}, (path.name, name)
            if folder != "kernels" and name.startswith("kernels/"):
                assert name in ("kernels/kernels.h", "kernels/scratch.h"), (path.name, name)
        library = re.findall(r"^#include <([^>]+)>", path.read_text(), re.MULTILINE)
        if folder == "kernels":
            assert all(name.endswith(".h") for name in library), (path.name, library)
        if path.name != "bindings.cc" and path.parent.name != "bindings":
            assert not any("nanobind" in name for name in library), path.name


def test_no_tuple_is_generic() -> None:
    """Python 3.10 cannot make a class of NamedTuple and Generic: the package would not even be imported."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                assert not {"NamedTuple", "Generic"} <= bases, (path, node.name)
