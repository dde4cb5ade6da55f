"""Streams of a network camera, and cameras of this machine by number: with FFmpeg's own test picture as the camera."""

from __future__ import annotations

import itertools
import re
import sys
import time

import numpy as np
import pytest

from bhvit import UserError
from bhvit.cli.main import main
from bhvit.data.inputs import open_inputs, video
from helpers.rtsp import camera

pytest.importorskip("av")


@pytest.fixture
def test_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Camera 3 gives FFmpeg's test picture; any other is as on this machine."""
    opened, names = video._open, dict.fromkeys(("linux", "darwin", "win32"), "lavfi")

    def _open(source, options=None):
        if source != video.camera(3):
            return opened(source, options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(video, "_CAMERAS", names)
            patch.setattr(video, "_is_camera", lambda source: True)
            return opened("testsrc=size=64x48:rate=25", options)

    monkeypatch.setattr(video, "_open", _open)


def test_a_network_camera_plays() -> None:
    with camera(30) as (host, asked), open_inputs(f"rtsp://user:secret@{host}/stream") as inputs:
        assert inputs.live
        pictures = list(inputs)
        numbers = [int(picture.name.rsplit(" ", 1)[1]) for picture in pictures]
        assert all(picture.name.startswith(f"rtsp://user:…@{host}/stream frame ") for picture in pictures)
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 29
        assert len(numbers) + inputs.dropped == 30  # a busy machine drops some
        for number, picture in zip(numbers, pictures, strict=True):
            assert np.asarray(picture.image()).shape == (48, 64, 3)
            assert abs(np.asarray(picture.image()).mean() - 20 * number % 260) < 8
    assert asked[:2] == ["OPTIONS", "DESCRIBE"]
    assert "PLAY" in asked


def test_late_frames_of_a_network_camera_are_dropped() -> None:
    with camera(3000) as (host, _), open_inputs(f"rtsp://{host}/stream") as inputs:
        next(iter(inputs))
        begin = time.monotonic()
        while inputs.dropped <= 5:
            assert time.monotonic() - begin < 60
            time.sleep(0.02)
        begin = time.monotonic()
    assert time.monotonic() - begin < 20  # closing does not wait for the end of the stream


def test_a_network_camera_that_is_not_there_is_refused() -> None:
    with camera(1) as (host, _):
        pass
    with pytest.raises(UserError, match=f"cannot open rtsp://a:…@{host}/ as a video: Connection refused"):
        open_inputs(f"rtsp://a:b@{host}/")


@pytest.mark.usefixtures("test_picture")
def test_a_camera_by_its_number() -> None:
    with open_inputs("3", every=2) as inputs:
        assert inputs.live
        for number, picture in enumerate(itertools.islice(inputs, 5)):
            frame = int(picture.name.removeprefix(f"{video.camera(3)} frame ") or -1) if number else 0
            assert frame % 2 == 0
            image = np.asarray(picture.image())
            assert image.shape == (48, 64, 3)
            assert image.std() > 50  # bars of colours


@pytest.mark.usefixtures("test_picture")
def test_a_camera_is_classified_until_it_is_stopped(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from bhvit.cli import classify

    taken = classify._Answers._take

    def stop_at_four(self, streamed):
        taken(self, streamed)
        if self._count == 4:
            raise KeyboardInterrupt  # as Ctrl-C does

    monkeypatch.setattr(classify._Answers, "_take", stop_at_four)
    assert main(["classify", "3", "--top", "1", "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.count(f"{video.camera(3)} frame ") == 4
    assert "4 images in" in err
    assert re.search("late frames? dropped", err)


@pytest.mark.skipif(sys.platform != "linux", reason="cameras are files on Linux")
def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="cannot open /dev/video97 as a video: No such file or directory"):
        open_inputs(97)
