"""The workflows of CI run what the Makefile has, and fuzz every target."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fuzz.readers import READERS
from helpers.site import ROOT

yaml = pytest.importorskip("yaml")

WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob(".github/workflows/*.yml")
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.sub(r"\\\n", " ", " ".join(re.findall(r"^\.PHONY:(.*)$", MAKEFILE, flags=re.M))).split())
(PYTHON,) = re.findall(r"^READERS := (.*)$", MAKEFILE, flags=re.M)
FUZZED = {"models", "json", "schema", "resize", *PYTHON.split()}


def steps(job: dict[str, Any]) -> list[str]:
    """The commands of a job, one for each value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = [step["run"] for step in job["steps"] if "run" in step]
    for name, values in matrix.items():
        found = [run.replace(f"${{{{ matrix.{name} }}}}", str(value)) for run in found for value in values]
    return found


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_is_made_is_in_the_makefile(workflow: str) -> None:
    made = [
        word
        for job in WORKFLOWS[workflow]["jobs"].values()
        for command in steps(job)
        for words in re.findall(r"\bmake ([^\n]*)", command)
        for word in words.split()
        if "=" not in word
    ]
    assert set(made) <= TARGETS | {f"fuzz-{target}" for target in FUZZED}


def test_every_target_is_fuzzed_every_night() -> None:
    assert {"models", "json", "schema", "resize", *READERS} == FUZZED
    matrix = WORKFLOWS["nightly"]["jobs"]["fuzz"]["strategy"]["matrix"]
    assert sorted(matrix["target"]) == sorted(FUZZED)
