"""`bhvit explain` and `bhvit embed`."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from bhvit import Session, UserError, files
from bhvit.data.embeddings import k_centres
from bhvit.format import file as bhv_file


def test_each_picture_gets_a_drawing(bhvit, refused, material, tmp_path):
    pictures = sorted(material.images.rglob("*.png"))[:2]
    out = tmp_path / "why"
    answer = bhvit("explain", material.model, *pictures, "--out", out)
    assert (answer.status, answer.err) == (0, "")
    files = sorted(out.glob("*.png"))
    assert [file.name for file in files] == ["0.png", "1.png"]
    assert f"{files[0]}: {Session(material.model).classify(pictures[0], 1)[0][0]}" in answer.out
    with Image.open(files[0]) as drawing:
        assert drawing.size == (512, 256)
        left, right = np.asarray(drawing)[:, :256], np.asarray(drawing)[:, 256:]
    assert (left != right).any()
    assert "exists" in refused("explain", material.model, *pictures, "--out", out)
    assert bhvit("explain", material.model, *pictures, "--out", out, "--force", "--method", "attention").status == 0


def test_gradients_need_the_checkpoint(bhvit, refused, material, tmp_path):
    picture, out = next(material.images.rglob("*.png")), ("--out", tmp_path / "why")
    words = ("explain", material.model, picture, *out, "--method", "layercam")
    assert "go together" in refused(*words)
    assert "go together" in refused("explain", material.model, picture, *out, "--checkpoint", material.checkpoint)
    assert bhvit(*words, "--checkpoint", material.checkpoint, "--stage", "1", "--name", "plain").status == 0
    assert "stages 0 to 2" in refused(*words, "--checkpoint", material.checkpoint, "--stage", "9", "--force")


def test_mistakes_of_explain_are_one_line(bhvit, refused, material, tmp_path):
    picture, out = next(material.images.rglob("*.png")), ("--out", tmp_path / "why")
    assert "does not know the class 'bird'" in refused("explain", material.model, picture, *out, "--name", "bird")
    assert "--out" in refused("explain", material.model, picture)
    assert "is a file" in refused("explain", material.model, picture, "--out", picture)
    assert "method" in refused("explain", material.model, picture, *out, "--method", "shap")
    within = ("--out", material.images / "why")
    assert "would be read as pictures" in refused("explain", material.model, material.images, *within)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG")
    answer = bhvit("explain", material.model, bad, picture, *out)
    assert answer.status == 2
    assert "bad.png" in answer.err
    assert f"{picture.stem}.png" in answer.out
    assert "bad.png" in refused("explain", material.model, bad, *out, "--strict")


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_features_are_written(bhvit, refused, material, tmp_path, ending):
    out = tmp_path / f"features.{ending}"
    assert bhvit("embed", material.model, material.images, "--out", out).status == 0
    pictures = sorted(material.images.rglob("*.png"))
    session = Session(material.model)
    expected = np.concatenate([session.embed(session.preprocess(picture)) for picture in pictures])
    if ending == "npy":
        names, features = out.with_suffix(".txt").read_text().splitlines(), np.load(out)
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        names, features = table["image"].to_pylist(), np.array(table["features"].to_pylist(), np.float32)
    assert names == [str(picture) for picture in pictures]
    np.testing.assert_array_equal(features, expected)
    assert "exists" in refused("embed", material.model, material.images, "--out", out)


def test_a_name_with_a_line_break_is_one_line(bhvit, material, tmp_path):
    data = next(material.images.rglob("*.png")).read_bytes()
    (tmp_path / "photos").mkdir()
    for name in ("a\nb.png", "c.png"):
        (tmp_path / "photos" / name).write_bytes(data)
    assert bhvit("embed", material.model, tmp_path / "photos", "--out", tmp_path / "f.npy").status == 0
    names = (tmp_path / "f.txt").read_text().splitlines()
    assert names == [f"{tmp_path}/photos/a\\nb.png", f"{tmp_path}/photos/c.png"]
    assert len(np.load(tmp_path / "f.npy")) == 2


def test_features_are_never_left_without_their_names(refused, material, tmp_path, monkeypatch):
    write = files.write_atomically

    def full(path, data):
        if path.suffix == ".txt":
            raise UserError(f"cannot write {path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "write_atomically", full)
    assert "No space left" in refused("embed", material.model, material.images, "--out", tmp_path / "f.npy")
    assert not list(tmp_path.iterdir())


def test_duplicates_and_what_to_label_next(bhvit, refused, material, tmp_path):
    pictures = sorted(material.images.rglob("*.png"))
    twin = tmp_path / "twin.png"
    twin.write_bytes(pictures[3].read_bytes())
    words: tuple[object, ...] = ("embed", material.model, material.images, twin, "--duplicates", "0.9999", "--json")
    found = json.loads(bhvit(*words).out)
    assert found["images"] == len(pictures) + 1
    assert (found["duplicates"][0]["first"], found["duplicates"][0]["second"]) == (str(pictures[3]), str(twin))
    assert f"{pictures[3]}  {twin}" in bhvit(*words[:-1]).out
    session = Session(material.model)
    features = np.concatenate([session.embed(session.preprocess(picture)) for picture in pictures])
    words = ("embed", material.model, material.images, "--label-next", "3")
    expected = [str(pictures[index]) for index in k_centres(features, 3)]
    assert bhvit(*words).out.splitlines() == expected
    known = pictures[0].parent
    labelled = json.loads(bhvit(*words, "--labelled", known, "--json").out)["label_next"]
    assert not set(labelled) & set(map(str, known.iterdir()))


def test_mistakes_of_embed_are_one_line(bhvit, refused, material, tmp_path):
    assert "say what the features are for" in refused("embed", material.model, material.images)
    assert ".npy or .parquet" in refused("embed", material.model, material.images, "--out", tmp_path / "x.csv")
    assert "cosine" in refused("embed", material.model, material.images, "--duplicates", "98")
    assert "goes with --label-next" in refused(
        "embed", material.model, material.images, "--duplicates", "0.9", "--labelled", material.images
    )
    assert "absent" in refused("embed", material.model, "absent", "--duplicates", "0.9")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG")
    assert bhvit("embed", material.model, bad, material.images, "--duplicates", "1").status == 2
    assert "bad.png" in refused("embed", material.model, bad, "--duplicates", "1", "--strict")


def test_pictures_are_decoded_as_the_model_asks(bhvit, material, tmp_path):
    model, picture, out = tmp_path / "draft.bhv", tmp_path / "large.jpg", tmp_path / "features.npy"
    file = bhv_file.read(material.model)
    bhv_file.write(dataclasses.replace(file, preprocess=dataclasses.replace(file.preprocess, draft=1.0)), model)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    session = Session(model)
    wanted = session.embed(session.preprocess(picture))
    assert (wanted != session.embed(session.preprocess(Image.open(picture)))).any()  # decoded in full
    assert bhvit("embed", model, picture, "--out", out).status == 0
    np.testing.assert_array_equal(np.load(out), wanted)


@pytest.mark.parametrize(("command", "rest"), [("embed", ["--duplicates", "1"]), ("explain", ["--out", "why"])])
def test_messages_are_about_the_command(refused, material, command, rest):
    said = refused(command, material.model, *rest)
    assert f"no image to {command} with" in said
    assert "classify" not in said


def test_what_is_left_out_is_said_by_every_command(bhvit, material, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(next(material.images.rglob("*.png")).read_bytes())
    (photos / "b.png").write_bytes(b"\x89PNG")
    (photos / "c.cr2").write_bytes(b"raw")
    (photos / "d").symlink_to(photos)
    out = tmp_path / "out"
    data = ("--data", material.images, "--split", "all", "--limit", "2", "--unknown-data", photos)
    for words in (
        ("classify", material.model, photos),
        ("embed", material.model, photos, "--duplicates", "1"),
        ("explain", material.model, photos, "--out", out),
        ("eval", material.model, *data),
    ):
        lines = bhvit(*words).err.splitlines()
        assert all(line.startswith("bhvit: ") for line in lines), lines
        assert f"bhvit: {photos / 'd'} is a link to a folder that is read already" in lines
        assert any("are left out (.cr2 1)" in line for line in lines)
        skipped = "" if words[0] == "classify" else "skipped: "  # it answers each picture, if with an error
        assert any(line.startswith(f"bhvit: {skipped}{photos / 'b.png'} ") for line in lines), lines
        assert "bhvit: 1 of 2 images could not be read" in lines
