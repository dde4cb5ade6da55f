"""`--show`: a window on a display of its own (Xvfb), seen by a screenshot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageGrab

from bhvit.cli.main import main
from bhvit.cli.show import Window
from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from helpers.random_model import random_model
from helpers.small_specs import LABELS

pytest.importorskip("tkinter")
GREEN = (10, 200, 30)


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display that nobody looks at."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("Xvfb is not installed")
    reader, writer = os.pipe()
    command = [server, "-displayfd", str(writer), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[writer], stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        with os.fdopen(reader) as file:
            yield f":{file.readline().strip()}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def shown(display: str, monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """Screenshots, one after each picture that is shown."""
    monkeypatch.setenv("DISPLAY", display)
    taken: list[Image.Image] = []
    show = Window.show

    def seen(self, picture, lines):
        show(self, picture, lines)
        taken.append(ImageGrab.grab(xdisplay=display))

    monkeypatch.setattr(Window, "show", seen)
    return taken


def pixels_of(screen: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(screen.convert("RGB")) == colour).all(axis=-1).sum())


def test_a_window_shows_picture_and_text(shown: list[Image.Image]) -> None:
    with Window("a title") as window:
        window.show(Image.new("RGB", (300, 200), GREEN), [])
        window.show(np.full((40, 50, 3), GREEN, np.uint8), ["one line", "another"])
        window.show(Image.new("RGB", (4000, 100), GREEN), ["larger than the window may be"])
        states = [window.open]
        window._closed()  # what the window's close button calls
        states.append(window.open)
    assert states == [True, False]
    assert [pixels_of(screen, GREEN) for screen in shown] == [300 * 200, 40 * 50, 1280 * 32]
    below = np.asarray(shown[1].convert("L"))[44:64, 4:60]  # text, dark on the window's grey
    assert (below < 60).any()
    assert (below > 180).any()


def test_commands_show_what_they_answer(shown: list[Image.Image], tmp_path: Path, capsys) -> None:
    for number in range(3):
        Image.new("RGB", (120, 80), GREEN).save(tmp_path / f"{number}.png")
    assert main(["classify", str(tmp_path), "--show"]) == 0
    assert [pixels_of(screen, GREEN) for screen in shown] == [120 * 80] * 3
    bhv_file.write(random_model(LABELS), tmp_path / "labels.bhv")
    assert main(["segment", str(tmp_path / "labels.bhv"), str(tmp_path / "0.png"), "--show"]) == 0
    assert pixels_of(shown[-1], GREEN) == 0  # under the colours of its classes
    assert len(shown) == 4


def test_a_closed_window_ends_the_run(shown: list[Image.Image], tmp_path: Path, monkeypatch) -> None:
    for number in range(5):
        Image.new("RGB", (120, 80), GREEN).save(tmp_path / f"{number}.png")
    show = Window.show

    def closed_after_two(self, picture, lines):
        show(self, picture, lines)
        if len(shown) == 2:
            self._closed()

    monkeypatch.setattr(Window, "show", closed_after_two)
    assert main(["classify", str(tmp_path), "--show", "--workers", "1"]) == 0
    assert len(shown) == 2


def test_without_a_display_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match="--show needs a display, and there is none"):
        Window("none")
