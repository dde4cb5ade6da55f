"""What people try first: the model anywhere, data of the other task, a file for a folder, and paths that are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bhvit.errors import counted
from helpers.images import class_folders, parquet, png, zipped
from helpers.masked_images import make
from helpers.without_torch import WITHOUT_TORCH

ALL_WITHOUT_TORCH = f"""{WITHOUT_TORCH}
import contextlib, io, json, os
from bhvit.cli.main import main
answers = []
for words in json.loads(sys.argv[1]):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
        status = main(words)
    answers.append([status, err.getvalue(), os.listdir()])
print(json.dumps(answers))
"""


def picture_of(material) -> Path:
    return next(material.images.rglob("*.png"))


def test_the_model_may_be_an_option(bhvit, refused, material, tmp_path):
    picture = picture_of(material)
    first = bhvit("classify", material.model, picture, "--json").out
    assert json.loads(first)
    assert bhvit("classify", picture, "--model", material.model, "--json").out == first
    assert bhvit("classify", "--model", material.model, picture, "--json").out == first
    assert bhvit("embed", picture, "--model", material.model, "--out", tmp_path / "a.npy").status == 0
    assert bhvit("explain", picture, "--model", material.model, "--out", tmp_path / "why").status == 0
    assert bhvit("segment", picture, "--model", "road", "--out", tmp_path / "road").status == 0
    for command, rest in (("classify", []), ("segment", []), ("explain", ["--out", "why"]), ("embed", ["--out", "f"])):
        said = refused(command, material.model, picture, "--model", "cifar10", *rest)
        assert f"{material.model} and --model cifar10 are two models" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classify", "a.jpg", "--weights", "m.bhv"], "has no option --weights; did you mean --model?"),
        (["classify", "a.jpg", "--topk", "3"], "has no option --topk; did you mean --top?"),
        (["classify", "a.jpg", "-k", "3"], "has no option -k; did you mean --top?"),
        (["classify", "a.jpg", "--output", "a.csv"], "has no option --output; did you mean --out?"),
        (["classify", "a.jpg", "--num-workers", "3"], "has no option --num-workers; did you mean --workers?"),
        (["classify", "a.jpg", "--device", "cuda"], "has no option --device; packed models run on the CPU"),
        (["eval", "cifar10", "--dataset", "x"], "has no option --dataset; did you mean --data?"),
        (["eval", "cifar10", "--val-split", "0.1"], "has no option --val-split; did you mean --test-fraction?"),
        (["segment", "a.jpg", "--save-dir", "x"], "has no option --save-dir; did you mean --out?"),
        (["bench", "cifar10", "--bs", "4"], "has no option --bs; known: "),
    ],
)
def test_names_of_options_elsewhere_are_answered(refused, words, said):
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "photos"],
            "cannot place photos: too many arguments, or options stand between them; did you mean --data photos?",
        ),
        (["demo", "--pretrained", "photos"], "did you mean --data photos?"),
        (["train", "--data", "photos", "out"], "options stand between them (`bhvit"),
        (["eval", "cifar10", "photos"], "required: --data, which names the images (--data photos)"),
        (["calibrate", "cifar10", "photos"], "required: --data, which names the images (--data photos)"),
        (["verify", "a.safetensors", "cifar10", "photos"], "required: --data, which names the images (--data photos)"),
    ],
)
def test_images_without_their_option_are_told_it(refused, words, said):
    assert said in refused(*words)


@pytest.mark.parametrize("word", ["val", "Valid", "validation", "dev", "VAL"])
def test_a_split_is_known_by_every_word_that_files_say_it_with(bhvit, material, word):
    found = json.loads(bhvit("eval", material.model, "--data", material.images, "--json", "--split", word).out)
    assert (found["split"], found["images"]) == ("validation", 3)
    words = ("verify", material.checkpoint, material.model, "--data", material.images, "--split", "absent")
    assert bhvit(*words).err == "bhvit: there is no split 'absent'; choose one of train, validation, test, all\n"


def test_a_file_in_the_place_of_a_folder_is_named(refused, material, tmp_path):
    file, picture = tmp_path / "there", picture_of(material)
    file.write_text("mine")
    for words in (
        ("segment", picture, "--model", "road"),
        ("explain", material.model, picture),
        ("demo",),
        ("train", "--data", material.images),
        ("web", material.model),
    ):
        assert f"{file} is a file; --out names a folder" in refused(*words, "--out", file)
    assert file.read_text() == "mine"


def test_segment_says_where_it_wrote(bhvit, material, tmp_path):
    picture, out = picture_of(material), tmp_path / "maps"
    said = bhvit("segment", picture, "--model", "road", "--out", out).err
    assert said.startswith("bhvit: 1 image in ")
    assert f"; label maps and overlays are in {out}\n" in said
    said = bhvit("segment", picture, "--model", "road", "--out", out, "--resume", "--no-overlay").err
    assert f", 1 was there; label maps are in {out}\n" in said
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    assert " are in " not in bhvit("segment", tmp_path / "bad.png", "--model", "road", "--out", tmp_path / "none").err


def test_info_says_what_is_no_model(refused, material, tmp_path):
    picture = picture_of(material)
    said = refused("info", picture)
    assert f"{picture.name} is a picture, not a model: `bhvit classify" in said
    assert "is a run's folder: name a checkpoint in it, such as" in refused("info", material.run)
    assert "is a folder" in refused("info", tmp_path)


def test_a_class_that_the_model_lacks_is_answered_once(refused, material, tmp_path):
    said = refused("explain", material.model, picture_of(material), "--out", tmp_path / "why", "--name", "zebra")
    assert said.count("plain") == 1
    said = refused("explain", material.model, picture_of(material), "--out", tmp_path / "why", "--name", "plian")
    assert said.endswith("does not know the class 'plian'; did you mean plain?")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("newcomers") / "pets", count=4)


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return make(tmp_path_factory.mktemp("newcomers") / "streets")


def test_masks_are_refused_where_classes_are_wanted(refused, material, streets, tmp_path):
    split_first = tmp_path / "split-first"
    for place in ("images", "masks"):
        (split_first / "train" / place).mkdir(parents=True)
        (split_first / "train" / place / "0.png").write_bytes(png(0))
    archive = zipped(tmp_path / "streets.zip", streets)
    for data in (streets, archive, split_first):
        for words in (
            ("eval", material.model),
            ("calibrate", material.model, "--out", tmp_path / "out.bhv"),
            ("verify", material.checkpoint, material.model),
            ("train", "--out", tmp_path / "run"),
            ("report", material.run, "--out", tmp_path / "report.html"),
        ):
            said = refused(*words, "--data", data)
            assert f"{data} holds images and their masks, for models that label pixels" in said, words
    assert not (tmp_path / "run").exists()


def test_classes_are_refused_where_masks_are_wanted(refused, pets, tmp_path):
    rows = parquet(tmp_path / "pets.parquet", [0, 1, 0, 1])
    for data, said in (
        (pets, f"{pets} holds class folders (cat, dog), for models that classify"),
        (zipped(tmp_path / "pets.zip", pets), "holds class folders (cat, dog), for models that classify"),
        (rows, f"{rows} has classes of whole images (the column label), for models that classify"),
        ("digits", "digits has classes of whole images"),
    ):
        for words in (("eval", "road"), ("train", "--task", "segment", "--out", tmp_path / "run")):
            answer = refused(*words, "--data", data)
            assert said in answer, words
            assert "images/SPLIT/a.jpg" in answer or "annotation" in answer
    assert not (tmp_path / "run").exists()


WRONG_PATHS = [
    (["pack", "absent.safetensors"], "no checkpoint at absent.safetensors"),
    (["pack", "{checkpoint}", "model.onnx"], "end it in .bhv"),
    (["pack", "{checkpoint}", "{model}"], "model.bhv exists"),
    (["pack", "{model}", "other.bhv"], "is a packed model; a checkpoint"),
    (["pack", "{picture}", "other.bhv"], "is not a whole safetensors file"),
    (["verify", "absent.safetensors", "{model}", "--data", "{images}"], "no checkpoint at absent.safetensors"),
    (["verify", "{model}", "{model}", "--data", "{images}"], "is a packed model; a checkpoint"),
    (["verify", "{checkpoint}", "absent.bhv", "--data", "{images}"], "absent.bhv"),
    (["verify", "{checkpoint}", "{model}", "--data", "absent"], "there is no absent"),
    (["eval", "absent.safetensors", "--data", "{images}"], "no checkpoint at absent.safetensors"),
    (["eval", "{checkpoint}", "--data", "absent"], "there is no absent"),
    (["eval", "{checkpoint}", "--data", "{picture}"], "is neither a folder nor"),
    (["calibrate", "{checkpoint}", "--data", "absent"], "there is no absent"),
    (["train", "--data", "absent"], "there is no absent"),
    (["train", "--data", "{picture}"], "is neither a folder nor"),
    (["export", "{checkpoint}"], "is a checkpoint: `bhvit pack` it first"),
    (["export", "absent.bhv"], "absent.bhv"),
    (["report", "absent"], "absent is not a run"),
    (["import", "absent.pth", "--out", "a.safetensors"], "absent.pth"),
    (["import", "{checkpoint}", "--out", "a.bhv"], "--out cannot be a.bhv"),
]


@pytest.fixture(scope="module")
def answers(material, tmp_path_factory):
    """Of each of `WRONG_PATHS` status, standard error, and what lies in the working folder then; in one process."""
    known = {**material._asdict(), "picture": picture_of(material)}
    commands = [[word.format(**known) for word in words] for words, _ in WRONG_PATHS]
    result = subprocess.run(
        [sys.executable, "-c", ALL_WITHOUT_TORCH, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("working"),
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize("number", range(len(WRONG_PATHS)), ids=[" ".join(words) for words, _ in WRONG_PATHS])
def test_wrong_paths_are_named_before_pytorch_is_loaded(answers, number):
    status, err, left = answers[number]
    assert (status, err.count("\n"), left) == (2, 1, []), err
    assert WRONG_PATHS[number][1] in err


@pytest.mark.parametrize(
    ("count", "noun", "several", "said"),
    [
        (0, "image", None, "0 images"),
        (1, "image", None, "1 image"),
        (2, "image", None, "2 images"),
        (1, "class", None, "1 class"),
        (7, "class", None, "7 classes"),
        (2, "process", None, "2 processes"),
        (2, "box", None, "2 boxes"),
        (2, "epoch", None, "2 epochs"),
        (2, "batch", "batches", "2 batches"),
        (1, "file lies", "files lie", "1 file lies"),
        (3, "file lies", "files lie", "3 files lie"),
        (1, "was", "were", "1 was"),
    ],
)
def test_counts_have_their_noun(count, noun, several, said):
    assert counted(count, noun, several) == said


def test_one_of_a_thing_is_not_several(bhvit, material, tmp_path):
    picture = picture_of(material)
    one = class_folders(tmp_path / "one", [picture.parent.name], count=1)
    texts = [
        bhvit("classify", material.model, picture, "--out", tmp_path / "a.jsonl").err,
        bhvit("embed", material.model, picture, "--out", tmp_path / "a.npy").out,
        bhvit("eval", material.model, "--data", one).out,
        bhvit("info", "bhvit_nano", "--num-classes", "1").out,
        bhvit("verify", material.checkpoint, material.model, "--data", one, "--split", "all", "--trace", "1").out,
    ]
    assert all("1 image" in text or "1 picture" in text or "1 class" in text for text in texts)
    assert not [word for text in texts for word in ("1 images", "1 pictures", "1 classes", "1 numbers") if word in text]
