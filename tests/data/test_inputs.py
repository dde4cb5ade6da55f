"""Pictures of every kind of source that `classify` and `segment` take."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bhvit.data.dataset import open_dataset
from bhvit.data.inputs import open_inputs
from bhvit.data.inputs.video import Live
from bhvit.errors import UserError
from helpers.images import class_folders, parquet, png, shard, tar, zipped
from helpers.videos import jpeg, serving, video


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image())


def names(inputs) -> list[str]:
    return [picture.name for picture in inputs]


def same(found, expected: list[bytes]) -> None:
    from bhvit.decode import load_image

    assert len(found) == len(expected)
    for picture, data in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pixels(picture), np.asarray(load_image(data)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = class_folders(tmp_path / "photos", count=2)
    (root / "notes.txt").write_text("no image")
    return root


FILES = ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


def test_folders_patterns_and_files(folder: Path) -> None:
    expected = [str(folder / name) for name in FILES]
    inputs = open_inputs(folder)
    assert (inputs.total, inputs.live, names(inputs)) == (4, False, expected)
    assert names(open_inputs(f"{folder}/**/*.png")) == expected
    assert names(open_inputs([f"{folder}/cat/*", folder / "dog"])) == expected
    assert names(open_inputs([expected[3], expected[0], expected[0]])) == [expected[3], expected[0], expected[0]]
    same(list(inputs), [(folder / name).read_bytes() for name in FILES])


def test_a_file_named_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").write_bytes(png(1))
    assert names(open_inputs(tmp_path / "a[1].png")) == [str(tmp_path / "a[1].png")]


def test_archives_and_shards(folder: Path, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "photos.zip", folder)
    inputs = open_inputs(archive)
    assert (inputs.total, names(inputs)) == (4, [f"{archive}/{name}" for name in FILES])
    same(list(inputs), [(folder / name).read_bytes() for name in FILES])
    (tmp_path / "shards").mkdir()
    for number in range(2):
        shard(tmp_path / "shards" / f"{number}.tar", [0, 1, 2], first=3 * number)
    inputs = open_inputs(tmp_path / "shards")
    assert inputs.total == 6
    same(list(inputs), [png(index, index % 3) for index in range(6)])


def test_pictures_of_kinds_that_are_not_read_are_counted(folder: Path, tmp_path: Path) -> None:
    for name in ("a.jxl", "b.NEF", "c.nef", "notes.txt"):
        (folder / name).write_bytes(b"x")
    line = "pictures of kinds that are not read are left out (.jxl 1, .nef 2): convert them"
    with open_inputs(folder) as inputs:
        assert inputs.notes == (f"{folder}: {line}",)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    with open_inputs(packed) as inputs:
        assert inputs.notes == (f"{packed}: {line}",)
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.cr3").write_bytes(b"x")
    for source in (raw, zipped(tmp_path / "raw.zip", raw)):
        with pytest.raises(UserError, match=r"holds no images .*pictures of kinds that are not read .*\.cr3 1"):
            open_inputs(source)


def test_parquet_files_need_no_labels(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    parquet(tmp_path / "a.parquet", [0, 1, 2])
    data = [png(7), png(8)]
    pyarrow.parquet.write_table(pa.table({"image": pa.array(data, pa.binary())}), tmp_path / "b.parquet")
    inputs = open_inputs([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert inputs.total == 5
    assert names(inputs)[0] == f"{tmp_path / 'a.parquet'} row 0"
    same(list(inputs), [png(0, 0), png(1, 1), png(2, 2), *data])
    assert open_inputs(str(tmp_path / "*.parquet")).total == 5


def test_a_damaged_member_is_found_when_it_is_decoded(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)[:50], "3.png": png(3)})
    first, second, third = open_inputs(tmp_path / "a.tar")
    pixels(first)
    with pytest.raises(UserError, match=r"a\.tar/2\.png is damaged"):
        second.image()
    pixels(third)


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\0"])
def test_lists_on_standard_input(folder: Path, between: bytes) -> None:
    listed = between.join(str(folder / name).encode() for name in (*FILES, "absent.png")) + between + between
    inputs = open_inputs("-", stdin=io.BytesIO(listed))
    assert inputs.total is None
    *found, absent = list(inputs)
    assert [picture.name for picture in found] == [str(folder / name) for name in FILES]
    with pytest.raises(UserError, match=r"cannot read .*absent\.png"):
        absent.image()


def test_a_line_that_is_no_path_is_one_error() -> None:
    picture, good = open_inputs("-", stdin=io.BytesIO(b"x" * 100_000 + b"\ngood.png"))
    assert good.name == "good.png"
    with pytest.raises(UserError, match="it has more than 8192 characters"):
        picture.image()


@pytest.mark.parametrize("line", ["x" * 300, "http://[", "https://ann:secret@[/a.png", "http://a:b/", "http://\udcff/"])
def test_a_line_that_no_system_takes_is_one_error(line: str) -> None:
    picture, good = open_inputs("-", stdin=io.BytesIO(os.fsencode(line) + b"\ngood.png"))
    assert good.name == "good.png"
    with pytest.raises(UserError) as error:
        picture.image()
    assert "secret" not in picture.name + str(error.value)


class Slow(io.RawIOBase):
    """A stream that gives its parts one by one, and counts how many were asked for."""

    def __init__(self, *parts: bytes) -> None:
        self.parts, self.given = list(parts), 0

    def read1(self, size: int) -> bytes:
        self.given += 1
        return self.parts.pop(0) if self.parts else b""


@pytest.mark.parametrize("between", [b"\n", b"\0"])
def test_a_list_is_read_as_it_comes(between: bytes) -> None:
    stream = Slow(b"a.png" + between + b"b.p", b"ng" + between, b"c.png")
    pictures = iter(open_inputs("-", stdin=stream))  # type: ignore[arg-type]
    assert (next(pictures).name, stream.given) == ("a.png", 1)
    assert (next(pictures).name, stream.given) == ("b.png", 2)
    assert [picture.name for picture in pictures] == ["c.png"]


def test_an_endless_line_takes_no_memory() -> None:
    stream = Slow(*[b"x" * (1 << 16)] * 100, b"x\ngood.png\n")
    long, good = open_inputs("-", stdin=stream)  # type: ignore[arg-type]
    assert len(long.name) == 101
    assert good.name == "good.png"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.parquet", "a.mp4"])
def test_a_pipe_is_refused_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        open_inputs(tmp_path / name)


def test_pictures_at_addresses() -> None:
    with serving(
        **{"a.png": ("image/png", png(1)), "b": ("image/png", png(2)), "c.jpg": ("text/html", b"<html>")}
    ) as at:
        inputs = open_inputs([f"{at}/a.png", f"{at}/b"])
        assert (inputs.total, names(inputs)) == (2, [f"{at}/a.png", f"{at}/b"])
        same(list(inputs), [png(1), png(2)])
        listed = io.BytesIO(f"{at}/b\n{at}/absent\n{at}/c.jpg\n".encode())
        found, absent, page = open_inputs("-", stdin=listed)
        same([found], [png(2)])
        with pytest.raises(UserError, match="the server answers 404"):
            absent.image()
        with pytest.raises(UserError, match=r"c\.jpg is not an image"):
            page.image()
    (gone,) = open_inputs(f"{at}/a.png")
    with pytest.raises(UserError, match=r"cannot download .*: .*refused"):
        gone.image()


def test_passwords_of_addresses_are_not_shown() -> None:
    (picture,) = open_inputs("http://ann:secret@127.0.0.1:9/a.png")
    assert picture.name == "http://ann:…@127.0.0.1:9/a.png"
    with pytest.raises(UserError) as error:
        picture.image()
    assert "secret" not in str(error.value)


def test_a_download_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhvit.data.inputs.web.MAX_FILE_BYTES", 100)
    with serving(**{"a.png": ("image/png", png(1))}) as at:
        (picture,) = open_inputs(f"{at}/a.png")
        with pytest.raises(UserError, match="more than 100 bytes: BHVIT_MAX_FILE_BYTES"):
            picture.image()


@pytest.mark.parametrize("every", [1, 5])
def test_frames_of_a_video(tmp_path: Path, every: int) -> None:
    path = video(tmp_path / "clip.mp4")
    inputs = open_inputs(path, every=every)
    found = list(inputs)
    numbers = list(range(0, 12, every))
    assert inputs.total == len(found) == len(numbers)
    assert [picture.name for picture in found] == [f"{path} frame {number}" for number in numbers]
    assert [picture.seconds for picture in found] == pytest.approx([number / 10 for number in numbers])
    for number, picture in zip(numbers, found, strict=True):
        image = np.asarray(picture.image())
        assert (image.shape, image.dtype) == ((48, 64, 3), np.dtype(np.uint8))
        assert abs(int(image.mean()) - 20 * number) <= 3


def test_a_video_that_is_cut_short_gives_the_frames_before_it(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mkv", frames=100, size=(240, 320))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = list(open_inputs(path))
    assert 10 < len(found) < 100
    found[0].image()


def test_a_live_source_drops_late_frames() -> None:
    with serving() as at, open_inputs(f"{at}/stream?40") as inputs:
        assert (inputs.live, inputs.total) == (True, None)
        seen, begin = [], time.monotonic()
        for picture in inputs:
            seen.append(int(picture.name.rpartition(" ")[2]))
            while len(seen) == 1 and not inputs.dropped:  # slower than the source
                assert time.monotonic() - begin < 60
                time.sleep(0.01)
        assert seen == sorted(set(seen))
        assert seen[-1] in (39, 40)  # the server stops without an end: that may be an outcome of its own
        assert inputs.dropped > 0
        assert len(seen) + inputs.dropped == 1 + seen[-1]


def test_a_live_source_stops_when_it_is_closed() -> None:
    with serving() as at:
        inputs = open_inputs(f"{at}/stream?100000")
        next(iter(inputs)).image()
        (live,) = inputs._parts
        assert isinstance(live, Live)
        assert live._reader.is_alive()
        inputs.close()
        assert not live._reader.is_alive()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "a source is empty"),
        ("absent.png", "there is no image or folder absent.png"),
        ("absent/*.png", r"no file or folder fits absent/\*\.png"),
        ("ftp://a/b.png", "ftp://a/b.png is of no known kind: addresses begin with http, https, rtsp, "),
        ("rtsp://127.0.0.1:9/a", "cannot open rtsp://127.0.0.1:9/a as a video"),
        ("http://127.0.0.1:9/a", "cannot download http://127.0.0.1:9/a"),
        ("http://[", r"http://\[ is no address: Invalid IPv6 URL"),
        ("rtsp://ann:secret@[", r"rtsp://…@\[ is no address: Invalid IPv6 URL"),
        ("77", "cannot open /dev/video77 as a video"),
        (3.5, "a source is a path, an address or the number of a camera, not 3.5"),
        (True, "a source is a path"),
        ([], "there is no source"),
        ("{folder}/a.tgz", "compressed archive, which is not read"),
        ("{folder}/a.mp4", "a.mp4 as a video"),
        ("{folder}/a.zip", "cannot be unpacked"),
        ("{folder}/a.parquet", "not a whole parquet file"),
        ("{folder}/text", "holds no images"),
        ("{folder}/labels.parquet", r"lacks the column image \{bytes, path\}; it has label"),
        ("{folder}/empty.zip", "the archive .* holds no images"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, source, said: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    for name in ("a.tgz", "a.mp4", "a.zip", "a.parquet"):
        (tmp_path / name).write_bytes(b"not what it says")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("")
    zipped(tmp_path / "empty.zip", tmp_path / "text")
    pyarrow.parquet.write_table(pa.table({"label": [1]}), tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=said):
        open_inputs(source.format(folder=tmp_path) if isinstance(source, str) else source)


def test_a_video_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="install bhvit with the extra 'video'"):
        open_inputs(tmp_path / "a.mp4")


def test_colours_are_in_the_order_rgb(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(100))
    (picture,) = open_inputs(tmp_path / "a.jpg")
    assert abs(int(pixels(picture).mean()) - 100) <= 2


def test_what_is_no_address_is_named_without_its_password(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^http://…@\[x/a\.jpg is no address"):
        open_inputs("http://me:secret@[x/a.jpg")
    first, second = open_inputs("-", stdin=io.BytesIO(b"http://me:secret@[x/a.jpg\n" + os.fsencode(folder / FILES[0])))
    with pytest.raises(UserError, match=r"^cannot download http://…@\[x/a\.jpg") as caught:
        first.image()
    assert "secret" not in str(caught.value)
    assert pixels(second).size


def test_a_name_longer_than_any_file_has_is_one_bad_picture() -> None:
    (picture,) = open_inputs("-", stdin=io.BytesIO(b"a" * 300))
    with pytest.raises(UserError, match="cannot read aaa"):
        picture.image()


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_frames_are_counted_from_one(folder: Path, every: int) -> None:
    with pytest.raises(UserError, match="every must be a whole number of frames from 1"):
        open_inputs(folder, every=every)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_a_playlist_that_is_called_a_video_opens_no_other_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    for text in ("ffconcat version 1.0\nfile pipe.mp4\n", "#EXTM3U\n#EXTINF:1,\npipe.mp4\n#EXT-X-ENDLIST\n"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"cannot open .*{name} as a video"):
            open_inputs(tmp_path / name)


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mjpeg").write_bytes(jpeg(1))  # a format whose header does not say how large frames are
    for path in (video(tmp_path / "a.mp4", frames=1), tmp_path / "a.mjpeg"):
        monkeypatch.setattr("bhvit.decode.MAX_PIXELS", 1 << 20)
        (picture,) = open_inputs(path)
        assert pixels(picture).shape == (48, 64, 3)
        monkeypatch.setattr("bhvit.decode.MAX_PIXELS", 1024)
        (picture,) = open_inputs(path)
        with pytest.raises(UserError, match=r"at its first frame: .* too large .at most 1024 pixels are decoded"):
            picture.image()


def test_a_pattern_finds_a_picture_once_whatever_links_lead_to_it(folder: Path, tmp_path: Path) -> None:
    expected = [str(folder / name) for name in FILES]
    (folder / "cat" / "above").symlink_to(folder)
    (folder / "again").symlink_to(folder / "dog")
    (folder / "cat" / "other.png").symlink_to(folder / "dog" / "000.png")  # a link to a file is a file
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(png(5))
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    more = [str(folder / "cat" / "other.png"), str(folder / "far" / "b.png")]
    assert names(open_inputs(f"{folder}/**/*.png")) == sorted(expected + more)
    assert names(open_inputs(f"{folder}/again/*.png")) == [str(folder / "again" / f"00{i}.png") for i in range(2)]


@pytest.mark.parametrize("pattern", ["**", "**/*", "*", "c*", "**/d*", "**/*.png", "*/", "[cd]*"])
def test_a_pattern_that_finds_folders_takes_their_pictures_once(folder: Path, pattern: str) -> None:
    """Folders and the files in them, or folders alone: no picture is answered twice."""
    (folder / "dog" / "deep").mkdir()
    (folder / "dog" / "deep" / "d.png").write_bytes(png(9))
    (folder / "empty").mkdir()
    every = sorted(str(path) for path in folder.rglob("*.png"))
    if pattern in ("*", "*/"):
        (folder / "empty" / "e.png").write_bytes(png(8))
        every = sorted(str(path) for path in folder.rglob("*.png"))
    found = names(open_inputs(f"{folder}/{pattern}"))
    assert len(set(found)) == len(found)
    wanted = {"c*": "/cat/", "**/d*": "d.png"}.get(pattern, "")
    assert sorted(name for name in found if name.endswith(".png")) == [name for name in every if wanted in name]


def test_a_list_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    lines = b"\xef\xbb\xbf" + b"".join(f"{folder}/{name}\r\n".encode() for name in FILES[:2])
    assert names(open_inputs("-", stdin=io.BytesIO(lines))) == [f"{folder}/{name}" for name in FILES[:2]]


def test_standard_input_that_is_closed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        open_inputs("-")


def test_any_sequence_of_sources_is_taken(folder: Path) -> None:
    from collections import UserList

    expected = [str(folder / name) for name in FILES[:2]]
    assert names(open_inputs(UserList(expected))) == expected
    with pytest.raises(UserError, match="a source is a path"):
        open_inputs(b"a.png")


def test_a_folder_holds_the_same_pictures_for_classifying_and_for_training(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", count=2)
    (root / "cat" / ".hidden").mkdir()
    (root / "cat" / "a folder.png").mkdir()  # named like a picture
    (root / "cat" / "a folder.png" / "deep.png").write_bytes(png(7))
    for name in (".hidden/x.png", "._000.png", ".DS_Store", "Thumbs.db"):
        (root / "cat" / name).write_bytes(png(5))
    (root / "dog" / "link.png").symlink_to(root / "cat" / "000.png")
    (root / "dog" / "broken.png").symlink_to(tmp_path / "gone.png")
    (root / "dog" / "again").symlink_to(root / "cat")
    (root / "dog" / "up").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.png").write_bytes(png(6))
    (root / "dog" / "far").symlink_to(tmp_path / "elsewhere")
    dataset = open_dataset(root, "all", warn=lambda line: None)
    trained = sorted(dataset.name(index) for index in range(len(dataset)))
    answered = names(open_inputs(root))
    assert answered == sorted([*trained, str(root / "dog" / "broken.png")])  # which has an error for an answer
    wanted = ["cat/000.png", "cat/001.png", "cat/a folder.png/deep.png", "dog/000.png", "dog/001.png"]
    assert trained == [str(root / name) for name in (*wanted, "dog/far/far.png", "dog/link.png")]
