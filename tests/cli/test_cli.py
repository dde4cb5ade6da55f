"""The command line itself: help, errors, exit statuses, and what it must not load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import bhvit as package
from bhvit.cli import main as cli
from bhvit.errors import UserError
from helpers.without_torch import WITHOUT_TORCH

_BARE_COMMAND = (
    WITHOUT_TORCH
    + """
from bhvit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
)


def _python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(bhvit, command):
    answer = bhvit(command, "--help")
    assert answer.status == 0
    assert "example:" in answer.out
    assert f"bhvit {command}" in answer.out.partition("example:")[2]


def test_help_lists_every_command_and_loads_no_torch():
    result = _python(
        "import sys\nfrom bhvit.cli.main import main\nmain(['--help'])\n"
        "print([m for m in ('torch', 'timm', 'bhvit._native') if m in sys.modules])"
    )
    assert all(f"    {command} " in result.stdout for command in cli.COMMANDS)
    assert result.stdout.strip().endswith("[]")


def test_version(bhvit):
    assert bhvit("--version") == (0, f"bhvit {package.__version__}\n", "")


def test_without_arguments_the_help_is_printed(bhvit):
    assert bhvit() == bhvit("--help")
    assert bhvit().status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evla", "m.bhv"], "there is no command 'evla'; did you mean eval? (`bhvit --help` explains more)"),
        (["cat.jpg"], "there is no command 'cat.jpg'; known: demo, train, eval"),
        ([""], "there is no command ''"),
        (["predict", "cat.jpg"], "there is no command 'predict'; `bhvit classify` does that"),
        (["evaluate", "m.bhv"], "there is no command 'evaluate'; `bhvit eval` does that"),
        (["classify", "ftp://example.com/cat.jpg"], "ftp://example.com/cat.jpg is of no known kind: addresses begin"),
        (["--versio"], "`bhvit` has no option --versio; did you mean --version?"),
        (["--json", "info", "m.bhv"], "`bhvit` has no option --json; known: -h, --help, --version"),
        (["bench", "--thread", "1", "m.bhv"], "`bhvit bench` has no option --thread; did you mean --threads? (`bhvit"),
        (["bench", "m.bhv", "-threads=2"], "`bhvit bench` has no option -threads; did you mean --threads?"),
        (["eval", "m.bhv", "--dta", "digits"], "did you mean --data?"),
        (["eval", "m.bhv", "--dta=my photos"], "did you mean --data?"),
        (["train", "--quux"], "`bhvit train` has no option --quux; known: -h, --help, --data"),
        (["train"], "--data is missing: it names the images to train on"),
        (["pack"], "required: checkpoint"),
        (["--"], "required: COMMAND"),
        (["pack", "a", "b", "c", "d"], "cannot place c d: too many arguments"),
        (["classify", "m.bhv", "--top", "1", "cat.jpg"], "cannot place cat.jpg: too many arguments, or options stand"),
        (["classify", "m.bhv", "cat.jpg", "--top"], "--top: expected one argument"),
        (["classify", "m.bhv", "i", "--top", "x"], "--top: 'x' is not a whole number of at least 1"),
        (["bench", "m.bhv", "--threads", "0"], "--threads: '0' is not a whole number"),
        (["info", "bhvit_nano", "--json=3"], "--json: takes no value, but has '3'"),
        (["bench", "m.bhv", "--seconds", "-1"], "--seconds: '-1' is not between 0 and 3600 seconds"),
        (["import", "w.pth", "--out", "c", "--weight-bits", "x"], "--weight-bits: not a whole number: 'x'"),
        (["pack", "a", "b", "--float-storage", "some"], "--float-storage: invalid choice: 'some'"),
        (["verify", "c", "m", "--data", "d", "--threshold", "101"], "--threshold"),
        (["classify", "a.jpg", "--out", "r.jsonl", "--resume", "--force"], "give one of them"),
        (["segment", "m.bhv", "a.jpg", "--out", "maps", "--resume", "--force"], "give one of them"),
        (["train", "--data", "d", "--processes", "100000"], "--processes: '100000' is more than 256"),
        (
            ["eval", "cifar10", "--data", "digits", "--threads", "100000"],
            "threads must be a whole number from 1 to 256",
        ),
    ],
)
def test_mistakes_in_the_arguments_are_one_line(refused, words, said):
    assert said in refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["info", "{name}"],
        ["eval", "{name}", "--data", "digits"],
        ["calibrate", "{name}", "--data", "digits"],
        ["pack", "{name}"],
        ["bench", "{name}"],
        ["bench", "cifar10", "--torch", "{name}"],
        ["export", "{name}"],
        ["serve", "{name}"],
        ["classify", "{name}", "{images}"],
        ["embed", "{name}", "{images}", "--duplicates", "1"],
        ["explain", "{name}", "{images}", "--out", "why"],
        ["explain", "cifar10", "{images}", "--out", "why", "--method", "layercam", "--checkpoint", "{name}"],
        ["segment", "{name}", "{images}"],
        ["segment", "{images}", "--model", "{name}"],
        ["verify", "{name}", "{model}", "--data", "digits"],
        ["verify", "{checkpoint}", "{name}", "--data", "digits"],
        ["report", "{run}", "--model", "{name}"],
        ["train", "--data", "digits", "--init", "{name}"],
    ],
    ids=" ".join,
)
def test_a_name_that_is_no_model_names_those_there_are(refused, material, words):
    said = refused(*(word.format(**material._asdict(), name="cifar11") for word in words))
    assert "cifar11" in said
    assert "cifar10" in said


def test_a_name_that_is_no_model_needs_no_torch_to_be_refused():
    for words in (["info", "bhvit_nan"], ["pack", "cifar11"], ["verify", "cifar11", "cifar10", "--data", "digits"]):
        result = _python(_BARE_COMMAND, *words)
        assert result.returncode == 2
        assert "cifar10" in result.stderr or "did you mean bhvit_nano?" in result.stderr


def test_a_file_that_begins_with_a_dash_is_told_how_to_be_named(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-cat.jpg").touch()
    assert "write ./-cat.jpg for the file" in refused("classify", "-cat.jpg")


@pytest.mark.parametrize("words", [["eval", "--help", "--nope"], ["train", "--epoch", "3", "-h"], ["--help", "evla"]])
def test_help_is_given_with_names_that_are_wrong(bhvit, words):
    answer = bhvit(*words)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith("usage: bhvit")


def test_classify_info_pack_help_and_bench_work_without_torch(material):
    picture = next(material.images.rglob("*.png"))
    for words in (
        ["classify", material.model, picture],
        ["info", material.model],
        ["info", material.checkpoint],
        ["info", "bhvit_nano"],
        ["bench", material.model, "--seconds", "0.01", "--profile"],
    ):
        result = _python(_BARE_COMMAND, *words)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "{checkpoint}", "{out}.bhv"],
        ["report", "{run}"],
        ["verify", "{checkpoint}", "{model}", "--data", "{images}"],
        ["demo", "--out", "{out}"],
    ],
)
def test_a_missing_extra_is_named_with_what_installs_it(material, tmp_path, words):
    out = tmp_path / "out"
    known = {**material._asdict(), "out": out}
    result = _python(_BARE_COMMAND, *(word.format(**known) for word in words))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "install bhvit with the extra 'train', for example pip install '.[train]' in its checkout" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("two\nlines"), 2, "bhvit: two lines\n"),
        (KeyboardInterrupt(), 130, "\nbhvit: interrupted\n"),
        (PermissionError(13, "Permission denied", "x.bhv"), 2, "bhvit: cannot use x.bhv: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "bhvit: No space left on device\n"),
        (FileNotFoundError(2, "No usable temporary directory"), 2, "bhvit: No usable temporary directory\n"),
        (MemoryError(), 2, "bhvit: not enough memory; smaller batches or images need less\n"),
    ],
)
def test_errors_become_one_line_and_a_status(bhvit, monkeypatch, error, status, said):
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr("bhvit.cli.info.run", fail)
    answer = bhvit("info", "x")
    assert (answer.status, answer.err) == (status, said)


def test_our_own_faults_are_not_hidden(bhvit, monkeypatch):
    monkeypatch.setattr("bhvit.cli.info.run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        bhvit("info", "x")


@pytest.mark.parametrize(
    ("words", "unbuffered", "status", "said"),
    [
        (["--help"], "", 141, ""),
        (["--help"], "1", 141, ""),
        (["classify", "{model}", "{images}"], "", 141, ""),
        (["classify", "{model}", "absent.png"], "", 2, "bhvit: there is no image or folder absent.png\n"),
    ],
)
def test_a_reader_that_goes_away_is_no_traceback(material, words, unbuffered, status, said):
    reading, writing = os.pipe()
    os.close(reading)
    filled = [word.format(**material._asdict()) for word in words]
    assert run_with(writing, unbuffered, *filled) == (status, said)
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full is a file of Linux")
def test_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        said = "bhvit: cannot write standard output: No space left on device\n"
        assert run_with(full.fileno(), "", "--help") == (2, said)
        assert run_with(full.fileno(), "1", "--help") == (2, "bhvit: No space left on device\n")


def run_with(stdout: int, unbuffered: str, *words: str) -> tuple[int, str]:
    """Run the command line with this standard output: exit status and standard error."""
    command, environment = [sys.executable, "-m", "bhvit", *words], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    result = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=120, env=environment
    )
    return result.returncode, result.stderr


_WAITING = """
import sys, threading
import bhvit.cli.info
def wait(args):
    print("ready", flush=True)
    threading.Event().wait(60)
bhvit.cli.info.run = wait
from bhvit.__main__ import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("importing", [False, True])
def test_an_interruption_is_status_130(importing):
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
    if importing:  # a module that is being imported when the signal comes
        program += "import sys\nclass Find:\n    def find_spec(self, name, *_):\n        if name == 'bhvit.cli.main':\n"
        program += "            print('ready', flush=True); __import__('threading').Event().wait(60)\n"
        program += "sys.meta_path.insert(0, Find())\nfrom bhvit.__main__ import main\nsys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program if importing else program + _WAITING, "info", "x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip() == "bhvit: interrupted"


def test_help_is_a_command_too(bhvit):
    assert bhvit("help") == bhvit("--help")
    assert bhvit("help", "pack") == bhvit("pack", "--help")


def test_the_package_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "bhvit", "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"bhvit {package.__version__}\n")


def test_a_bundled_checkpoint_packs_into_the_working_folder(bhvit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bhvit("pack", "cifar10", "a.bhv").status == 0
    assert bhvit("pack", "cifar10").status == 0
    assert (tmp_path / "a.bhv").read_bytes() == (tmp_path / "cifar10.bhv").read_bytes()


def test_commands_match_their_modules():
    for module in cli.COMMANDS.values():
        assert (Path(package.__file__).parent / "cli" / f"{module}.py").is_file()


def test_of_several_processes_the_first_says_what_is_wrong(monkeypatch, capsys):
    waited: list[Any] = []
    monkeypatch.setattr("bhvit.cli.main.time.sleep", waited.append)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, waits in (("0", []), ("1", [cli.OTHERS_WAIT])):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["info", "absent.bhv"]) == 2
        assert waited == waits
        assert "absent.bhv" in capsys.readouterr().err  # torchrun has ended it by then, if the first failed too


COMMANDS_WITH_PATHS = [
    ["classify", "{}"],
    ["classify", "cifar10", "{}"],
    ["classify", "{}", "photo.jpg"],
    ["info", "{}"],
    ["eval", "{}", "--data", "digits"],
    ["eval", "cifar10", "--data", "{}"],
    ["eval", "cifar10", "--data={}"],
    ["verify", "m.safetensors", "cifar10", "--data", "{}"],
    ["verify", "{}", "cifar10", "--data", "digits"],
    ["bench", "{}"],
    ["pack", "{}"],
    ["pack", "m.safetensors", "{}"],
    ["report", "{}"],
    ["report", "run", "--out", "{}"],
    ["train", "--data", "{}", "--out", "run"],
    ["train", "--data", "digits", "--out", "{}"],
    ["train", "--data", "digits", "--out={}"],
    ["train", "--data", "digits", "--out", "run", "--init", "{}"],
    ["train", "--data", "digits", "--out", "run", "--recipe", "{}"],
    ["import", "{}", "--out", "m.safetensors"],
    ["import", "w.pth", "--out", "{}"],
    ["demo", "--out", "{}"],
]


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("words", COMMANDS_WITH_PATHS, ids=" ".join)
def test_an_empty_argument_is_one_line(words, value, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(value) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is a variable of the shell not set?" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["help", "nonsense"], "there is no command 'nonsense'; known: demo"),
        (["help", "clasify"], "there is no command 'clasify'; did you mean classify?"),
        (["help", "predict"], "there is no command 'predict'; `bhvit classify` does that"),
        (["help", "help"], "there is no command 'help'"),
        (["quantise", "m"], "`bhvit pack` does that"),
    ],
)
def test_commands_that_are_none_are_answered(words, said, capsys):
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_help_and_version_are_words_too(capsys):
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("bhvit ")
    assert cli.main(["help", "classify", "more"]) == 0
    assert capsys.readouterr().out.startswith("usage: bhvit classify")


@pytest.mark.parametrize("closed", ["0", "1", "2", "1 2", "0 1 2"])
def test_streams_that_are_closed_are_no_fault(closed, tmp_path):
    Image.new("RGB", (32, 32), (9, 90, 200)).save(tmp_path / "sky.png")
    command = [sys.executable, "-m", "bhvit", "classify", str(tmp_path / "sky.png")]
    closing = " ".join(f"{number}>&-" for number in closed.split())
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert bool(result.stdout) == ("1" not in closed)
