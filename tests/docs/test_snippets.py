"""Python code of the documentation runs: the blocks of each page in turn, and the cells of the notebooks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.site import DOCS, WRITTEN, code_blocks

NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
PAGES = [
    page for page in WRITTEN if page.name != "README.md" and code_blocks(page.read_text(encoding="utf-8"), "python")
]


def run(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    run("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    code = "\n".join(code_blocks(page.read_text(encoding="utf-8"), "python"))
    if "import transformers" in code or "from transformers" in code:
        pytest.importorskip("transformers")
    run(code, tmp_path)


def test_the_reader_of_the_format_page_reads_what_bhvit_reads(tmp_path: Path) -> None:
    code = "\n".join(code_blocks((DOCS / "reference" / "bhv-format.md").read_text(encoding="utf-8"), "python"))
    check = """
from bhvit import bundled
from bhvit.bits import unpack_signs, untile_weights
from bhvit.format.file import read

path = bundled.FOLDER / "cifar10.bhv"
model = read(path)
ops, tensors = read_bhv(path)
assert [op["name"] for op in ops] == [op.name for op in model.ops]
assert tensors.keys() == model.tensors.keys()
assert all(np.array_equal(tensors[name], model.tensors[name]) for name in tensors)
name, (outputs, inputs) = "stages.0.0.mlp.weight1", (256, 64)
expected = unpack_signs(untile_weights(tensors[name], outputs), inputs)
assert np.array_equal(signs(tensors[name], outputs, inputs), expected)
"""
    run(code + check, tmp_path)


def test_readme_imports_and_calls_what_exists() -> None:
    import bhvit

    text = "\n".join(code_blocks((DOCS.parent / "README.md").read_text(encoding="utf-8"), "python"))
    names = set(re.findall(r"\bbhvit\.(\w+)\(", text))
    assert {"Session", "create_model", "pack", "from_published"} <= names
    assert {name for name in names if not hasattr(bhvit, name)} == set()
