"""Images with masks: what is found, what is refused, and what classes mean."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bhvit import UserError
from bhvit.data.mask_classes import IGNORED
from bhvit.data.masks import MaskedDataset, open_masked, read_mask
from bhvit.data.segmentation_metrics import SegmentationMetrics, confusion, evaluate_masks
from bhvit.image import Preprocess
from helpers.masked_images import NAMES, encoded, make, mask_of


def _quiet(line: str) -> None:
    return


def test_folders_and_archives_hold_the_same(tmp_path: Path) -> None:
    folder = make(tmp_path / "set")
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, Path("set") / path.relative_to(folder))
    lines: list[str] = []
    for split, count in (("train", 3), ("validation", 3), ("test", 3), ("all", 9), ("train+validation", 6)):
        found = [open_masked(source, split, warn=lines.append) for source in (folder, archive)]
        for dataset in found:
            assert (len(dataset), dataset.class_names) == (count, ("sky", "road", "car"))
            assert dataset.splits == ("train", "validation", "test")
        for index in range(count):
            np.testing.assert_array_equal(found[0].mask(index), found[1].mask(index))
    assert all("unlabelled" in line for line in lines)
    np.testing.assert_array_equal(open_masked(folder, "train", warn=_quiet).mask(1), mask_of(1))
    assert open_masked(folder, "train", warn=_quiet).digest() != open_masked(folder, "test", warn=_quiet).digest()


@pytest.mark.parametrize("names", [["a.png"], ["masks"], ["set/masks", "set/images/a.png"], ["images", "masks/a.png"]])
def test_files_in_place_of_folders_are_no_images(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in names:
            archive.writestr(name, encoded(mask_of(1)))
    with pytest.raises(UserError, match=r"has no folder (images|masks) with files"):
        open_masked(tmp_path / "set.zip", warn=_quiet)


def test_one_place_is_parted(tmp_path: Path) -> None:
    make(tmp_path, (".",), count=10, masks="annotations")
    train, validation = (open_masked(tmp_path, split, warn=_quiet) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (8, 2)
    names = [{dataset.name(index) for index in range(len(dataset))} for dataset in (train, validation)]
    assert not names[0] & names[1]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture = np.zeros((6, 8, 3), np.uint8)
    rows = {
        "image": [{"bytes": encoded(picture), "path": "a.png"}] * 4,
        "annotation": [{"bytes": encoded(mask_of(index)), "path": "a.png"} for index in range(4)],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "train.parquet")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    dataset = open_masked(tmp_path, "all", warn=_quiet)
    assert (len(dataset), dataset.class_names) == (4, ("sky", "road", "car"))
    np.testing.assert_array_equal(dataset.mask(3), mask_of(3))
    parquet.write_table(pyarrow.table({"image": rows["image"]}), tmp_path / "train.parquet")
    with pytest.raises(UserError, match="lacks the column annotation"):
        open_masked(tmp_path, "all")


def test_ignored_labels(tmp_path: Path) -> None:
    folder = make(tmp_path)
    mask = np.array([[0, 1, 2, 3], [255, 3, 1, 0]], np.uint8)
    (folder / "masks/train/0.png").write_bytes(encoded(mask))
    (folder / "images/train/0.jpg").write_bytes(encoded(np.zeros((2, 4, 3), np.uint8), "JPEG"))
    dataset = open_masked(folder, "train", warn=_quiet)
    np.testing.assert_array_equal(dataset.mask(0), [[0, 1, 2, IGNORED], [IGNORED, IGNORED, 1, 0]])
    dataset = open_masked(folder, "train", ignore=1, warn=_quiet)
    assert dataset.class_names == ("sky", "car")
    np.testing.assert_array_equal(dataset.mask(0), [[0, IGNORED, 1, IGNORED], [IGNORED, IGNORED, IGNORED, 0]])
    dataset = open_masked(folder, "train", foreground=("road", "car"), warn=_quiet)
    assert dataset.class_names == ("other", "road+car")
    np.testing.assert_array_equal(dataset.mask(0), [[0, 1, 1, IGNORED], [IGNORED, IGNORED, 1, 0]])


def test_classes_that_a_model_knows(tmp_path: Path) -> None:
    folder = make(tmp_path)
    plain = open_masked(folder, "test", warn=_quiet)
    known = open_masked(folder, "test", class_names=("car", "sky", "road"), warn=_quiet)
    np.testing.assert_array_equal(known.mask(0), np.array([1, 2, 0], np.uint8)[plain.mask(0)])
    road = open_masked(folder, "test", class_names=("other", "road"), warn=_quiet)
    np.testing.assert_array_equal(road.mask(0), plain.mask(0) == 1)
    with pytest.raises(UserError, match="classes the model does not know: car"):
        open_masked(folder, "test", class_names=("sky", "road", "tree"))


def test_classes_without_names(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "classes.txt").unlink()
    assert open_masked(folder, "train").class_names == ("0", "1", "2")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image without mask": (lambda f: (f / "masks/train/1.png").unlink(), r"1\.jpg has no mask: .*1\.png is missing"),
    "a mask of another size": (
        lambda f: (f / "masks/train/1.png").write_bytes(encoded(mask_of(0, (8, 6)))),
        r"1\.png has 6x8 pixels, its image .* 8x6: a mask has a label for each pixel",
    ),
    "a mask with colours": (
        lambda f: (f / "masks/train/1.png").write_bytes(encoded(np.zeros((6, 8, 3), np.uint8))),
        r"1\.png is an image of mode RGB: a mask is an 8-bit PNG of class numbers",
    ),
    "a mask of sixteen bits": (
        lambda f: (f / "masks/train/1.png").write_bytes(encoded(np.zeros((6, 8), np.uint16))),
        r"1\.png is an image of mode I;16: a mask is an 8-bit PNG",
    ),
    "a mask that is a JPEG": (
        lambda f: (f / "masks/train/1.png").write_bytes(encoded(mask_of(0), "JPEG")),
        r"1\.png is a JPEG, which changes labels",
    ),
    "a mask that is no image": (lambda f: (f / "masks/train/1.png").write_bytes(b"no"), r"1\.png is not an image"),
    "a label beyond the classes": (
        lambda f: (f / "masks/train/1.png").write_bytes(encoded(mask_of(0) + np.uint8(9))),
        r"1\.png has label 11, but there are classes 0 to 2 only: .*--ignore",
    ),
    "an empty split": (
        lambda f: [path.unlink() for path in (f / "images/train").iterdir()],
        r"has no training images",
    ),
    "no images at all": (
        lambda f: [path.unlink() for path in f.glob("images/*/*")],
        r"has no folder images with files: images/SPLIT/a\.jpg go with masks/SPLIT/a\.png",
    ),
    "no masks at all": (
        lambda f: [path.unlink() for path in f.glob("masks/*/*")],
        r"has no folder masks with files",
    ),
    "one class": (lambda f: (f / "classes.txt").write_text("road\n"), "has 1 class: a segmentation needs 2 to 255"),
    "masks of 0 and 255": (
        lambda f: (_rewrite(f, lambda mask: 255 * (mask > 0)), (f / "classes.txt").unlink()),
        "hold 0 and 255 alone, and 255 counts for nothing: write 1 for the foreground",
    ),
    "masks of 0 and 255 with two names": (
        lambda f: (_rewrite(f, lambda mask: 255 * (mask > 0)), (f / "classes.txt").write_text("other\nroad\n")),
        "every training pixel is other, and two classes are needed; 255 counts for nothing: write 1",
    ),
    "masks of one class": (
        lambda f: _rewrite(f, lambda mask: 0 * mask + 1),
        "every training pixel is road, and two classes are needed$",
    ),
    "masks that say nothing": (
        lambda f: _rewrite(f, lambda mask: 0 * mask + 255),
        "no training pixel counts, and two classes are needed",
    ),
}


def _rewrite(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in folder.glob("masks/*/*.png"):
        path.write_bytes(encoded(change(np.asarray(Image.open(path))).astype(np.uint8)))


def test_a_class_that_no_training_pixel_has_is_said(tmp_path: Path) -> None:
    folder, said = make(tmp_path), list[str]()
    _rewrite(folder, lambda mask: np.minimum(mask, 1))
    open_masked(folder, "train", warn=said.append)
    assert f"{folder}: no training pixel is car: the model cannot learn it" in said
    said.clear()
    open_masked(folder, "val", warn=said.append)
    open_masked(folder, "train", class_names=NAMES[:3], warn=said.append)  # what a model knows is not in question
    assert not any("training pixel" in line for line in said)


def test_other_files_next_to_masks_are_no_masks(tmp_path: Path) -> None:
    folder = make(tmp_path)
    before = open_masked(folder, "train", warn=_quiet).mask(1)
    (folder / "masks/train/1.txt").write_text("notes")
    (folder / "masks/train/1.xml").write_text("<notes/>")
    np.testing.assert_array_equal(open_masked(folder, "train", warn=_quiet).mask(1), before)


def test_a_foreground_that_the_data_lacks_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with pytest.raises(
        UserError, match="has no class tree, which the model tells from all others; it has sky, road, car"
    ):
        open_masked(folder, "test", class_names=("other", "tree"), warn=_quiet)
    labels = open_masked(folder, "test", class_names=("other", "car"), warn=_quiet).mask(0)
    np.testing.assert_array_equal(labels, mask_of(20) == 2)


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_refused(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    folder = make(tmp_path)
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        open_masked(folder, "train", warn=_quiet)
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with pytest.raises(UserError, match="ignore must be a label from 0 to 255"):
        open_masked(folder, ignore=256)
    with pytest.raises(UserError, match="has no class tree for the foreground"):
        open_masked(folder, foreground=("tree",), warn=_quiet)
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        open_masked(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither a folder nor a \.parquet"):
        open_masked(folder / "classes.txt")


def test_pixels_and_mask_have_the_models_size(tmp_path: Path) -> None:
    dataset = open_masked(make(tmp_path), "train", warn=_quiet)
    both = dataset.pixels(0, Preprocess(size=(12, 4), crop=1.0))
    assert (both.shape, both.dtype) == ((12, 4, 4), np.dtype(np.uint8))
    np.testing.assert_array_equal(both[:, :, 3], dataset.mask(0).repeat(2, axis=0)[:, 1::2])  # the nearest of 6x8


def test_metrics_by_hand() -> None:
    labels = np.array([[0, 0, 1, 1, IGNORED]], np.uint8)
    found = np.array([[0, 1, 1, 1, 0]], np.uint8)
    counts = confusion(labels, found, 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    metrics = SegmentationMetrics(class_names=("a", "b", "c"), confusion=counts, images=1)
    assert metrics.pixel_accuracy == 3 / 4
    np.testing.assert_allclose(metrics.per_class, [1 / 2, 2 / 3, np.nan])
    assert metrics.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.to_dict()["per_class"] == {"a": 1 / 2, "b": 2 / 3, "c": None}
    with pytest.raises(UserError, match="cannot be compared"):
        confusion(labels, found[:, :2], 3)
    with pytest.raises(UserError, match="labels beyond the classes"):
        confusion(labels, found, 1)


def test_a_perfect_labeller_has_a_miou_of_one(tmp_path: Path) -> None:
    dataset = open_masked(make(tmp_path), "test", warn=_quiet)
    masks = iter([dataset.mask(index) for index in range(len(dataset))])
    metrics = evaluate_masks(lambda image: next(masks), dataset)
    assert (metrics.miou, metrics.pixel_accuracy, metrics.per_image) == (1.0, 1.0, (1.0,) * 3)
    wrong = evaluate_masks(lambda image: np.zeros((6, 8), np.uint8), dataset)
    assert wrong.miou < 0.5


def test_it_pickles(tmp_path: Path) -> None:
    import pickle

    dataset = open_masked(make(tmp_path), "train", warn=_quiet)
    again: MaskedDataset = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again.mask(2), dataset.mask(2))


def test_a_name_longer_than_any_file_has_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot read aaa"):
        open_masked("a" * 300)


def test_a_mask_is_opened_as_pictures_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes an icon while it opens the file, and starts a program for PostScript."""
    icon, script = io.BytesIO(), io.BytesIO()
    Image.new("RGBA", (64, 64)).save(icon, "ICO", sizes=[(64, 64)])
    Image.new("L", (64, 64)).save(script, "EPS")
    icon.seek(0)
    with pytest.raises(UserError, match=r"a\.png is an icon or has colours: a mask is an 8-bit PNG"):
        read_mask(icon, "a.png")
    monkeypatch.setattr("bhvit.decode.MAX_PIXELS", 1000)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    for file, said in ((icon, "64x64 pixels, more than the 1000"), (script, "is not an image")):
        file.seek(0)
        with pytest.raises(UserError, match=said):
            read_mask(file, "a.png")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = make(tmp_path / "set")
    (folder / "masks" / "train" / "9.png").write_bytes(encoded(mask_of(9)))
    for place in ("images", "masks"):
        (folder / place / "loose.png").write_bytes((folder / "masks" / "train" / "0.png").read_bytes())
    (folder / "images" / "train" / "raw.cr2").write_bytes(b"raw")
    said: list[str] = []
    assert len(open_masked(folder, "train", warn=said.append)) == 3
    assert f"{folder}: 1 image in no split (loose.png); left out" in said
    assert f"{folder}: 1 mask without an image (train/9); left out" in said
    assert any("pictures of kinds that are not read are left out (.cr2 1)" in line for line in said)


@pytest.mark.parametrize(
    ("labels", "ignore", "said"),
    [
        ([1, 2], None, "make 3 classes, 0 to 2, and no pixel has label 0:"),
        ([0, 1, 5], None, "make 6 classes, 0 to 5, and no pixel has label 2, 3, 4:"),
        ([0, 200], None, "make 201 classes, 0 to 200, and no pixel has label 1, 2, 3, 4, 5 and 194 more:"),
        ([1, 2], 0, None),
        ([0, 1, 255], None, None),
        ([0, 1, 2], None, None),
    ],
)
def test_classes_that_no_pixel_has_are_said(
    tmp_path: Path, labels: list[int], ignore: int | None, said: str | None
) -> None:
    folder = make(tmp_path / "set", ("train",))
    (folder / "classes.txt").unlink()
    for path in (folder / "masks" / "train").iterdir():
        path.write_bytes(encoded(np.resize(np.array(labels, np.uint8), (6, 8))))
    lines: list[str] = []
    open_masked(folder, "all", ignore=ignore, warn=lines.append)
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_a_foreground_that_names_a_class_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="foreground names road more than once"):
        open_masked(make(tmp_path / "set"), "train", foreground=("road", "car", "road"), warn=_quiet)


def test_labels_without_names_count_the_classes_of_a_model(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", ("train",))
    named = open_masked(folder, "all", class_names=("sky", "road", "car"), warn=_quiet)
    (folder / "classes.txt").unlink()
    for known in (("sky", "road", "car"), ("other", "road", "car"), ("a", "b", "c", "d")):
        found = open_masked(folder, "all", class_names=known, warn=_quiet)
        assert found.class_names == known
        for index in range(len(named)):
            np.testing.assert_array_equal(found.mask(index), named.mask(index))
    with pytest.raises(UserError, match="has label 2, but the model knows 2 classes"):
        open_masked(folder, "all", class_names=("other", "road"), warn=_quiet)
    # A model trained with these labels and one of them ignored has numbers for names, without that one.
    numbers = open_masked(folder, "all", ignore=0, warn=_quiet)
    assert numbers.class_names == ("1", "2")
    again = open_masked(folder, "all", class_names=("1", "2"), ignore=0, warn=_quiet)
    np.testing.assert_array_equal(again.mask(0), numbers.mask(0))
