"""Members of archives: each is read, left out with a reason, or one bad image."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from bhvit.data import stores
from bhvit.data.dataset import Dataset, open_dataset
from bhvit.errors import UserError
from helpers.images import class_folders, png, shard, tar, zipped


def _all(source: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return open_dataset(source, "all", warn=said.append), said


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_in_a_tar_stand_for_what_they_name(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "cat/0.png": png(0),
            "dog/0.png": png(1, 1),
            "cat/hard.png": _link("cat/hard.png", "cat/0.png", tarfile.LNKTYPE),
            "dog/soft.png": _link("dog/soft.png", "0.png", tarfile.SYMTYPE),
            "dog/chain.png": _link("dog/chain.png", "../dog/soft.png", tarfile.SYMTYPE),
            "dog/gone.png": _link("dog/gone.png", "absent.png", tarfile.SYMTYPE),
            "dog/out.png": _link("dog/out.png", "/etc/passwd", tarfile.SYMTYPE),
            "dog/self.png": _link("dog/self.png", "self.png", tarfile.SYMTYPE),
            "dog/pipe": _link("dog/pipe", "", tarfile.FIFOTYPE),
        },
    )
    dataset, said = _all(path)
    assert len(dataset) == 5
    held = {dataset.name(index).rpartition("/")[2]: dataset.image(index).tobytes() for index in range(5)}
    assert held["hard.png"] != held["soft.png"] == held["chain.png"]
    assert len(said) == 4
    assert any("gone.png is a link to dog/absent.png, which is no file" in line for line in said)
    assert any("pipe is no file but a device or pipe" in line for line in said)


def test_sparse_members_are_left_out_with_a_reason(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"cat/0.png": png(0), "dog/0.png": png(1, 1)})
    info = tarfile.TarInfo("dog/1.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    data = b"1\n0\n9\n".ljust(512, b"\0") + b"not a png"
    info.size = len(data)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(data))
    dataset, said = _all(path)
    assert len(dataset) == 2
    assert len(said) == 1
    assert "1.png is a sparse member" in said[0]


def test_links_in_shards_are_refused(tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {"0.png": png(0), "0.cls": b"0"}
    members |= {"1.png": _link("1.png", "0.png", tarfile.LNKTYPE), "1.cls": b"1"}
    with pytest.raises(UserError, match=r"1\.png is a link or a sparse file"):
        _all(tar(tmp_path / "a.tar", members))


def test_side_files_in_archives_are_passed_over(tmp_path: Path) -> None:
    shard(tmp_path / "plain.tar", [0, 1] * 4)
    with tarfile.open(tmp_path / "plain.tar") as plain, tarfile.open(tmp_path / "mac.tar", "w") as mac:
        for info in plain:
            for name in (f"._{info.name}", info.name):
                held = plain.extractfile(info)
                assert held is not None
                copy = tarfile.TarInfo(name)
                copy.size = info.size
                mac.addfile(copy, held)
    (tmp_path / "plain.tar").unlink()
    assert len(_all(tmp_path / "mac.tar")[0]) == 8
    folder = class_folders(tmp_path / "set")
    (folder / "cat" / "._000.png").write_bytes(b"side")
    (folder / "Thumbs.db").write_bytes(b"side")
    dataset, said = _all(zipped(tmp_path / "set.zip", folder))
    assert (len(dataset), said) == (20, [])


def _damaged_zip(path: Path, *, flag: int = 0, method: int | None = None, content: bool = False) -> Path:
    """A zip of eight images, one of which says it is encrypted, or compressed in another way, or has other bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for kind, name in enumerate(("cat", "dog")):
            for index in range(4):
                archive.writestr(f"{name}/{index}.png", png(10 * kind + index, kind))
    data = bytearray(path.read_bytes())
    for signature, flags, methods in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        place = data.index(signature)
        data[place + flags] |= flag
        if method is not None:
            data[place + methods] = method
    if content:
        data[data.index(b"IHDR") + 5] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "damage",
    [{"flag": 1}, {"method": 99}, {"method": 9}, {"method": 14}, {"method": 12}, {"method": 8}, {"content": True}],
    ids=["encrypted", "unknown method", "Deflate64", "no LZMA", "no bzip2", "no Deflate", "wrong checksum"],
)
def test_one_bad_member_of_a_zip_is_one_skipped_image(tmp_path: Path, damage: dict[str, int]) -> None:
    dataset, said = _all(_damaged_zip(tmp_path / "a.zip", **damage))  # type: ignore[arg-type]
    assert len(dataset) == 7
    assert len(said) == 2
    assert "0.png" in said[0]
    assert "skipped 1 of the 8 images" in said[1]


@pytest.mark.parametrize("name", ["x", "x/"])
def test_a_member_of_a_zip_without_a_name_is_left_out(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", class_folders(tmp_path / "set"))
    expected, _ = _all(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory: its name becomes an extra field
    data = data[: at + 28] + b"\0\0" + len(name).to_bytes(2, "little") + data[at + 32 :]
    path.write_bytes(data)
    dataset, said = _all(path)
    assert len(dataset) == len(expected)
    assert any("a member without a name" in line for line in said)


def test_a_member_that_claims_gigabytes_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_FILE_BYTES", 1 << 20)
    path = zipped(tmp_path / "a.zip", class_folders(tmp_path / "set"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/bomb.png", bytes(4 << 20))
    assert path.stat().st_size < 1 << 20
    dataset, said = _all(path)
    assert len(dataset) == 20
    assert "BHVIT_MAX_FILE_BYTES=4194304 allows it" in said[0]


PETS = {
    f"{name}/{index}.png": png(10 * kind + index, kind) for kind, name in enumerate(("cat", "dog")) for index in (0, 1)
}


@pytest.mark.parametrize("change", ["./{}", "/{}", "pets\\{}"])
def test_names_in_a_zip_may_be_written_in_other_ways(tmp_path: Path, change: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in PETS.items():
            archive.writestr(change.format(name.replace("/", "\\") if "\\" in change else name), data)
    dataset, said = _all(tmp_path / "a.zip")
    assert (len(dataset), dataset.class_names, said) == (4, ("cat", "dog"), [])
    assert dataset.image(0).size == (8, 8)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_and_outside_of_the_archive_are_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in (*PETS.items(), ("cat/0.png", png(50)), ("../dog/9.png", png(9))):
            archive.writestr(name, data)
    dataset, said = _all(tmp_path / "a.zip")
    assert len(dataset) == 4
    assert len(said) == 2
    assert "../dog/9.png lies outside the archive" in said[0]
    assert "2 members are called cat/0.png" in said[1]
    with tarfile.open(tar(tmp_path / "a.tar", PETS), "a") as appended:
        info = tarfile.TarInfo("./cat/0.png")
        info.size = len(png(50))
        appended.addfile(info, io.BytesIO(png(50)))
    dataset, said = _all(tmp_path / "a.tar")
    assert len(dataset) == 4
    assert "2 members are called cat/0.png" in said[0]


@pytest.mark.parametrize("samples", [False, True], ids=["class folders", "shard"])
@pytest.mark.parametrize("damage", ["header", "joined", "cut at a header", "cut in a header"])
def test_a_tar_whose_reading_stops_early_is_refused(tmp_path: Path, damage: str, samples: bool) -> None:
    path = tmp_path / "a.tar"
    shard(path, [0, 1] * 4) if samples else tar(path, PETS)
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        middle = archive.getmembers()[3].offset
    path.write_bytes(
        {
            "header": data[:middle] + b"\xff" * 100 + data[middle + 100 :],
            "joined": data + data,
            "cut at a header": data[:middle],
            "cut in a header": data[: middle + 100],
        }[damage]
    )
    with pytest.raises(UserError, match=r"members after a damaged header|is cut short|has no label"):
        _all(path)
