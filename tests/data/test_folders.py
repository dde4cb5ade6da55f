"""Folders with links and with files that no user made."""

from __future__ import annotations

from pathlib import Path

from bhvit.data.dataset import Dataset, open_dataset
from helpers.images import class_folders, parquet, shard

SIDE = b"\0\5\x16\7" + bytes(4092)


def _all(source: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return open_dataset(source, "all", warn=said.append), said


def test_a_link_to_an_ancestor_multiplies_nothing(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    (root / "dog" / "again").symlink_to("../..")
    (root / "cat" / "self").symlink_to(".")
    dataset, said = _all(root)
    assert len(dataset) == 20
    assert sorted(line.partition(" is ")[0].rpartition("/")[2] for line in said) == ["self", "set"]


def test_a_folder_goes_by_its_own_name_not_by_a_link(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", ("dog", "horse"))
    (root / "a-dog").symlink_to("dog")
    dataset, said = _all(root)
    assert (dataset.class_names, len(dataset), len(said)) == (("dog", "horse"), 20, 1)


def test_links_out_of_the_folder_are_followed_once(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", ("cat",))
    class_folders(tmp_path / "elsewhere", ("dogs",))
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    dataset, said = _all(root)
    assert (dataset.class_names, len(dataset), said) == (("cat", "dog"), 20, [])
    loop = tmp_path / "elsewhere" / "dogs" / "back"
    loop.symlink_to(root)
    assert len(_all(root)[0]) == 20


def test_a_link_to_an_image_is_an_image(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    (root / "cat" / "link.png").symlink_to("000.png")
    (root / "cat" / "broken.png").symlink_to("absent.png")
    dataset, said = _all(root)
    assert len(dataset) == 21
    assert "broken.png" in said[0]


def test_side_files_of_other_systems_are_no_images_anywhere(tmp_path: Path) -> None:
    folders, shards, files = tmp_path / "folders", tmp_path / "shards", tmp_path / "files"
    class_folders(folders)
    shards.mkdir()
    files.mkdir()
    shard(shards / "a.tar", [0, 1] * 10)
    parquet(files / "a.parquet", [0, 1] * 10)
    for name in ("._a.tar", "._a.parquet", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for folder in (folders, folders / "cat", shards, files):
            (folder / name).write_bytes(SIDE)
    (folders / "__MACOSX" / "cat").mkdir(parents=True)
    (folders / "__MACOSX" / "cat" / "._000.png").write_bytes(SIDE)
    (shards / ".AppleDouble").mkdir()
    for source in (folders, shards, files):
        dataset, said = _all(source)
        assert (len(dataset), said) == (20, []), source
