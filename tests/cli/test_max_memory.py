"""`--max-memory`: every command that opens a packed model bounds what it may take."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

import bhvit
from bhvit.cli.main import build_parser
from bhvit.image import Preprocess
from bhvit.models import create_model, save_checkpoint
from bhvit.packing import pack
from helpers.randomise import randomise


@pytest.fixture(scope="module")
def large(material, tmp_path_factory):
    """A run folder whose packed model needs more than 1 MiB."""
    run = tmp_path_factory.mktemp("large") / "run"
    shutil.copytree(material.run, run)
    model = randomise(create_model("bhvit_nano", num_classes=3, img_size=256), 0)
    model.class_names = tuple(sorted(path.name for path in material.images.iterdir()))
    model.preprocess = Preprocess(size=(256, 256))
    save_checkpoint(model, run / "best.safetensors")
    pack(model, run / "model.bhv", force=True)
    return run


COMMANDS = {
    "classify": ("{run}/model.bhv", "{images}"),
    "eval": ("{run}/model.bhv", "--data", "{images}"),
    "verify": ("{run}/best.safetensors", "{run}/model.bhv", "--data", "{images}"),
    "bench": ("{run}/model.bhv", "--seconds", "0.01"),
    "calibrate": ("{run}/model.bhv", "--data", "{images}", "--split", "all", "--out", "{run}/calibrated.bhv"),
    "embed": ("{run}/model.bhv", "{images}", "--out", "{run}/features.npy"),
    "explain": ("{run}/model.bhv", "{images}", "--out", "{run}/maps"),
    "report": ("{run}", "--limit", "2", "--out", "{run}/page.html"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_above_the_limit_is_one_line(refused, material, large, command):
    words = [word.format(run=large, images=material.images) for word in COMMANDS[command]]
    said = refused(command, *words, "--max-memory", "1")
    assert "model.bhv: needs" in said
    assert "above the limit of 1 MiB" in said
    assert "raise max_memory (--max-memory)" in said
    assert not {"page.html", "calibrated.bhv", "features.npy", "features.txt", "maps"} & {
        p.name for p in large.iterdir()
    }


@pytest.mark.parametrize("command", ["eval", "bench", "classify"])
def test_a_limit_above_the_model_changes_nothing(bhvit, material, large, command):
    words = [word.format(run=large, images=material.images) for word in COMMANDS[command]]
    answer = bhvit(command, *words, "--max-memory", "64", "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)


def test_the_profile_of_an_op_is_bounded_too(material, large):
    from bhvit.errors import UserError
    from bhvit.format import file as bhv_file
    from bhvit.timing.profile import profile_ops

    path = large / "model.bhv"
    with pytest.raises(UserError, match="max_memory"):
        profile_ops(path, bhv_file.read(path), "auto", 1, 0.01, 1 << 20)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x", str(1 << 44), "9" * 30])
def test_what_is_no_number_of_mebibytes_is_refused(refused, material, text):
    assert "--max-memory" in refused("classify", material.model, material.images, "--max-memory", text)


def test_no_command_opens_a_packed_model_without_the_option():
    commands = build_parser().commands
    for name, parser in commands.items():
        options = {option for action in parser._actions for option in action.option_strings}
        if "--isa" in options or name in COMMANDS:
            assert "--max-memory" in options, name


OPENERS = {
    "Session",
    "native_runs",
    "compare",
    "compare_export",
    "compare_mask_export",
    "compare_masks",
    "open_labeller",
    "open_model",
}
OWN_MODELS = {"cli/demo.py", "cli/demo_pretrained.py"}
"""Commands that open only models that they made themselves or that come with the package."""


def test_whatever_a_command_opens_is_bounded():
    package = Path(bhvit.__file__).parent
    opened = []
    for folder in ("cli", "report", "serve", "timing", "verification"):
        for path in sorted((package / folder).rglob("*.py")):
            name = path.relative_to(package).as_posix()
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or name in OWN_MODELS:
                    continue
                if call.func.id in OPENERS:
                    opened.append(f"{name} line {call.lineno}")
                    given = [
                        ast.unparse(argument) for argument in (*call.args, *(word.value for word in call.keywords))
                    ]
                    assert any(word.endswith("memory") for word in given), opened[-1]
    assert len(opened) >= 16
