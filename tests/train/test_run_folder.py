"""The folder of a run: one writer, the same classes and images, no half-written files, and ends by a signal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import bhvit.train.loop as loop
from bhvit.data.metrics import Metrics
from bhvit.errors import UserError
from bhvit.models import load_checkpoint
from bhvit.train import TrainConfig, train
from bhvit.train.callbacks import Callback
from bhvit.train.run_folder import RunFolder, merit
from helpers.runs import assert_same


@pytest.fixture
def own_images(images, tmp_path):
    """A copy of the images that a test may change."""
    return shutil.copytree(images, tmp_path / "own")


@pytest.fixture
def halfway(config, own_images, kill):
    """A run on its own images, killed in its second epoch."""
    settings = config(data=str(own_images))
    kill(settings, "append_log", 2)
    return settings


CHANGES = {
    "a class renamed": (
        lambda root: [(root / p / "below").rename(root / p / "aaa") for p in ("train", "val")],
        "classes",
    ),
    "a class more": (
        lambda root: [shutil.copytree(root / p / "below", root / p / "more") for p in ("train", "val")],
        "classes above, below, the data now has above, below, more",
    ),
    "an image gone": (lambda root: (root / "train" / "above" / "3.png").unlink(), "its train images changed"),
    "an image more": (
        lambda root: shutil.copy(root / "train" / "above" / "3.png", root / "train" / "above" / "new.png"),
        r"its train images changed \(40 then, 41 now",
    ),
    "an image in another class": (
        lambda root: (root / "val" / "above" / "3.png").rename(root / "val" / "below" / "x.png"),
        "its validation images changed",
    ),
    "an image of another size": (
        lambda root: (root / "val" / "above" / "3.png").write_bytes(
            (root / "val" / "above" / "3.png").read_bytes() + b"tail"
        ),
        "its validation images changed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_on_other_classes_or_images(halfway, own_images, change):
    alter, message = CHANGES[change]
    alter(own_images)
    before = {path.name: path.read_bytes() for path in RunFolder(halfway.out).path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=message) as caught:
        train(halfway, resume=True, quiet=True)
    assert "--init" in str(caught.value)
    assert {path.name: path.read_bytes() for path in RunFolder(halfway.out).path.iterdir()} == before


def test_images_may_lie_elsewhere(halfway, own_images, tmp_path, config):
    own_images.rename(tmp_path / "moved")
    own_images.symlink_to(tmp_path / "moved")
    train(halfway, resume=True, quiet=True)
    whole = config(out=str(tmp_path / "whole"))
    train(whole, quiet=True)
    assert_same(tmp_path / "whole", RunFolder(halfway.out).path)


def test_a_run_of_an_earlier_version_resumes(halfway):
    (RunFolder(halfway.out).path / "data.json").unlink()
    train(halfway, resume=True, quiet=True)
    assert json.loads(RunFolder(halfway.out).data.read_text())["classes"] == ["above", "below"]


def test_of_equally_accurate_epochs_the_one_of_the_lowest_loss_is_the_best(config, monkeypatch, tmp_path):
    right = iter([4.0, 4.0, 6.0, 1.0])  # logits of the class that is right, the same half of the images in each epoch
    labels = np.array([0, 1, 0, 1])
    seen = []

    def validate(run):
        height = next(right)
        logits = np.array([[height, 0], [0, height], [0, 4], [4, 0]])
        return Metrics(class_names=("above", "below"), labels=labels, logits=logits, seconds=1.0)

    class Keep(Callback):
        def on_epoch_end(self, entry, model):
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    monkeypatch.setattr(loop._Run, "_validate", validate)
    settings = config(epochs=4, out=str(tmp_path / "ties"))
    train(settings, quiet=True, callbacks=[Keep()])
    monkeypatch.undo()
    lines = RunFolder(settings.out).entries()
    assert [line["val_top1"] for line in lines] == [0.5] * 4
    assert max(range(4), key=lambda epoch: merit(lines[epoch])) == 2
    stored = load_checkpoint(RunFolder(settings.out).best).state_dict()
    assert [all(torch.equal(stored[name], state[name]) for name in stored) for state in seen] == [
        False,
        False,
        True,
        False,
    ]
    progress = RunFolder(settings.out).progress()
    assert (progress.best, progress.best_loss) == (0.5, lines[2]["val_loss"])
    assert progress.stale == 3  # epochs without a better accuracy end a run, whatever their loss


def test_a_second_run_in_the_same_folder_is_refused(config):
    settings = config()
    with (
        RunFolder(settings.out).locked(),
        pytest.raises(UserError, match=r"another run is writing to .*: wait for it, or give another --out"),
    ):
        train(settings, quiet=True)
    train(settings, quiet=True)  # the lock is gone with its holder


def test_what_a_killed_writer_left_is_removed(config):
    settings = config(epochs=1)
    folder = RunFolder(settings.out)
    folder.path.mkdir()
    part = folder.path / ".resume.safetensors.deadbeef.part"
    part.write_bytes(b"half")
    train(settings, quiet=True)
    assert not part.exists()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.long) for name in ("SIGHUP", "SIGINT"))]
)
def test_a_signal_saves_and_says_how_to_go_on(arguments, program, tmp_path, name):
    number = getattr(signal, name)
    out = tmp_path / "stopped"
    # Sends itself the signal in the middle of the second epoch.
    own = (
        "import signal, bhvit.train.loop as loop\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup, under which tests may run, has it ignored
        f"step, calls = loop._Run._step, []\n"
        f"def counted(*a):\n    calls.append(1)\n    if len(calls) == 8: signal.raise_signal({int(number)})\n"
        "    return step(*a)\n"
        "loop._Run._step = counted\n"
    )
    command = [sys.executable, "-c", own + program, *arguments(out=out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 128 + number
    assert done.stderr.count("\n") == 2  # one for the progress line that was under way
    assert "--resume` continues from the newest checkpoint" in done.stderr
    progress = RunFolder(out).progress()
    assert (progress.epoch, progress.step) == (1, 3)
    train(TrainConfig.from_dict(json.loads((out / "config.json").read_text())), resume=True, quiet=True)
    whole = tmp_path / "whole"
    train(TrainConfig.from_dict({**json.loads((out / "config.json").read_text()), "out": str(whole)}), quiet=True)
    assert_same(whole, out)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_signal_that_is_ignored_from_the_start_stays_so(config, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import bhvit.train.loop as loop

        step = loop._Run._step
        monkeypatch.setattr(loop._Run, "_step", lambda *a: signal.raise_signal(signal.SIGINT) or step(*a))
        assert len(train(config(epochs=1), quiet=True).log) == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "text",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "Triton Error [CUDA]: out of memory",
        "CUDA",
    ],
)
def test_too_little_memory_is_one_line(config, monkeypatch, text):
    import torch

    import bhvit.train.loop as loop

    def fail(*_):
        raise torch.cuda.OutOfMemoryError(text) if text == "CUDA" else RuntimeError(text)

    monkeypatch.setattr(loop._Run, "_step", fail)
    with pytest.raises(UserError, match="not enough memory for steps of 8 images: --batch-size 4 or"):
        train(config(), quiet=True)


def test_other_errors_of_the_runtime_are_not_hidden(config, monkeypatch):
    import bhvit.train.loop as loop

    monkeypatch.setattr(loop._Run, "_step", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        train(config(), quiet=True)


def test_one_flipped_bit_of_a_checkpoint_is_found(config):
    path = train(config(epochs=1), quiet=True).last
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for place in (header, header + 1234, len(data) - 1):
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(UserError, match="its checksum does not match its weights"):
            load_checkpoint(path)
        data[place] ^= 1
    path.write_bytes(data)
    load_checkpoint(path)


def test_a_full_disk_is_one_line_not_a_bus_error(tmp_path, monkeypatch):
    from bhvit.train import teacher_outputs

    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    path = tmp_path / "rows"
    path.write_bytes(bytes(100))
    with pytest.raises(OSError, match="No space left"):
        teacher_outputs._allocate(path)


@pytest.mark.parametrize(
    ("folder", "free", "reason"),
    [
        ("/tmp/" + "d" * 90, 1 << 40, "too long a name"),
        ("/tmp", 1 << 20, "MiB free and 4 are needed"),
        ("/tmp", 1 << 40, None),
    ],
)
def test_why_workers_cannot_start(monkeypatch, folder, free, reason):
    from bhvit.train import loader

    monkeypatch.setattr("tempfile.gettempdir", lambda: folder)
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    found = loader.cannot_start_workers(1, 1 << 20)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found


@pytest.mark.parametrize("stray", [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "x", "RANK": "0"}, {"LOCAL_RANK": ""}])
def test_stray_settings_of_a_scheduler_start_no_processes(config, monkeypatch, stray):
    for name, value in stray.items():
        monkeypatch.setenv(name, value)
    assert len(train(config(epochs=1), quiet=True).log) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '"x"',
        "null",
        '{"classes": 5}',
        '{"classes": [1]}',
        '{"classes": [], "train": []}',
        "[" * 100_000,
        "{",
    ],
)
def test_a_damaged_description_of_the_data_is_one_line(config, halfway, text):
    (RunFolder(halfway.out).path / "data.json").write_text(text)
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        train(halfway, resume=True, quiet=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["data.json", "resume.safetensors", "config.json"])
def test_a_pipe_in_a_run_folder_is_refused(halfway, name):
    path = RunFolder(halfway.out).path / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"is a pipe, socket or device|is a pipe, not|no run to resume"):
        train(halfway, resume=True, quiet=True)
