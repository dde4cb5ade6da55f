"""Python code of the documentation runs: the blocks of each page, and the cells of the notebooks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.site import DOCS, WRITTEN, code_blocks

NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
PAGES = [
    page for page in WRITTEN if page.name != "README.md" and code_blocks(page.read_text(encoding="utf-8"), "python")
]


RUN = """
import json, os, sys, tempfile
for name, code in json.load(sys.stdin):
    print("running", name, flush=True)
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    exec(compile(code, name, "exec"), {"__name__": "__main__"})
"""
"""Pieces of code one after the other in one process, each in a folder and a namespace of its own: PyTorch is imported
once for all."""


def run(pieces: list[tuple[str, str]], folder: Path) -> None:
    command = [sys.executable, "-c", RUN, str(folder)]
    result = subprocess.run(command, input=json.dumps(pieces), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("running ") == len(pieces)


@pytest.mark.long
def test_notebooks_run(tmp_path: Path) -> None:
    pieces = []
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        cells = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), notebook
        pieces.append((notebook.name, "\n".join("".join(cell["source"]) for cell in cells)))
    assert len(pieces) >= 2
    run(pieces, tmp_path)


@pytest.mark.long
def test_code_of_pages_runs(tmp_path: Path) -> None:
    pieces = [
        (page.name, "\n".join(code_blocks(page.read_text(encoding="utf-8"), "python")))
        for page in PAGES
        if page.name != "integrations.md" or find_spec("transformers")
    ]
    assert len(pieces) >= 6
    run(pieces, tmp_path)


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
    run([("bhv-format.md", code + check)], tmp_path)


def test_readme_imports_and_calls_what_exists() -> None:
    import bhvit

    text = "\n".join(code_blocks((DOCS.parent / "README.md").read_text(encoding="utf-8"), "python"))
    names = set(re.findall(r"\bbhvit\.(\w+)\(", text))
    assert {"Session", "create_model", "pack", "from_published"} <= names
    assert names <= set(bhvit.__all__)
