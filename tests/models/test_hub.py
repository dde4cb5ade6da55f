"""Models as folders in the Hugging Face convention; the hub itself is played by stand-ins, there is no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml  # type: ignore[import-untyped,unused-ignore]
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from bhvit import hf_layout
from bhvit.cli.main import main
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.models import BHViT, create_model, load_checkpoint
from bhvit.models.base import hub
from helpers.randomise import randomise

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
NAMES = ("cat", "dog", "naïve ✓")


def _model(**settings: Any) -> BHViT:
    return randomise(create_model("bhvit_nano", **{"num_classes": 3, **settings}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = _model()
    model.class_names = NAMES
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_round_trips_weights_names_and_preprocessing(tmp_path: Path) -> None:
    model = _model(img_size=(48, 32), in_chans=1, window=1, recu=True)
    model.class_names = NAMES
    model.preprocess = Preprocess(
        size=(48, 32), channels=1, mean=(0.1,), std=(1 / 3,), crop=0.9, interpolation="bilinear"
    )
    model.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == FILES
    loaded = BHViT.from_pretrained(tmp_path / "a" / "b")
    assert (loaded.spec, loaded.class_names, loaded.preprocess) == (model.spec, model.class_names, model.preprocess)
    images = torch.randn(2, 1, 48, 32)
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES[1:]:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "a" / "b" / name).read_bytes()


def test_a_model_without_names_or_preprocessing_gets_the_usual_one(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path)
    loaded = BHViT.from_pretrained(str(tmp_path))
    assert loaded.class_names is None
    assert loaded.preprocess == Preprocess.usual((32, 32), 3)
    (tmp_path / "preprocessor_config.json").unlink()
    assert BHViT.from_pretrained(tmp_path).preprocess is None


def test_the_configuration_can_be_read_by_people(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "naïve ✓"}
    assert config["spec"]["stages"][0]["mixer"] == "conv"
    assert "naïve ✓" in (folder / "config.json").read_text(encoding="utf-8")


def test_the_weights_pack_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = (
        model.get_parameter("head.linear.weight") for model in (load_checkpoint(folder / "model.safetensors"), _model())
    )
    assert torch.equal(*weights)
    assert main(["pack", str(folder / "model.safetensors"), str(folder / "m.bhv")]) == 0
    assert "smaller" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bhvit_nano", "binaryvit_small"])
@pytest.mark.parametrize("license", [None, "mit"])
def test_the_model_card_says_what_is_known(tmp_path: Path, name: str, license: str | None) -> None:
    model = create_model(name, num_classes=30, img_size=64)
    model.class_names = tuple(f"kind {index}" for index in range(30))
    model.save_pretrained(tmp_path / "mine", license=license)
    _, metadata, text = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(metadata)
    assert fields["library_name"] == "bhvit"
    assert fields["pipeline_tag"] == "image-classification"
    assert "binary-neural-network" in fields["tags"]
    assert fields.get("license") == license
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert f"| Parameters | {millions:.2f} M" in text
    assert "RGB images of 64×64 pixels\ninto 30 classes (kind 0, kind 1" in text
    assert "kind 19, …)" in text
    assert "BHViT.from_pretrained('mine')" in text
    assert "bhvit.pack" in text
    assert "ccuracy" not in text


def test_a_card_that_is_there_stays(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    _model().save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"model has no {name}$"):
        BHViT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "describes a model of type 'vit'"),
        ({"spec": None}, "description is damaged"),
        ({"spec": {"name": "x"}}, "description is damaged"),
        ({"id2label": {"0": "cat"}}, "must name classes 0 to 2"),
        ({"id2label": {"0": "cat", "1": "dog", "3": "cow"}}, "must name classes 0 to 2"),
        ({"id2label": {"0": "cat", "1": "dog", "2": 2}}, "must name classes 0 to 2"),
        ({"id2label": 3}, "must name classes 0 to 2"),
    ],
)
def test_a_damaged_configuration_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message) as seen:
        BHViT.from_pretrained(folder)
    assert "\n" not in str(seen.value)
    assert str(path) in str(seen.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "cannot be read as JSON"),
        ("config.json", "[]", "of type None"),
        ("preprocessor_config.json", "{", "cannot be read as JSON"),
        ("preprocessor_config.json", "3", "of type None"),
        ("preprocessor_config.json", '{"image_processor_type": "ViTImageProcessor"}', "'ViTImageProcessor'"),
        ("preprocessor_config.json", '{"image_processor_type": "BHViTImageProcessor"}', "damaged"),
        ("model.safetensors", "{", "not a whole safetensors file"),
    ],
)
def test_damaged_files_are_refused(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message) as seen:
        BHViT.from_pretrained(folder)
    assert "\n" not in str(seen.value)
    assert name in str(seen.value)


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["head.linear.bias"] = torch.zeros(4)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor head.linear.bias has shape \[4\], not \[3\]"):
        BHViT.from_pretrained(folder)
    del tensors["head.linear.bias"]
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor head.linear.bias is missing"):
        BHViT.from_pretrained(folder)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        _model().save_pretrained(tmp_path / "file")
    model = _model()
    model.reset_classifier(0)
    for write in (model.save_pretrained, model.push_to_hub):
        with pytest.raises(UserError, match="has no classifier"):
            write(str(tmp_path / "none"))


def test_a_path_that_is_not_there_is_no_id_either() -> None:
    with pytest.raises(UserError, match=r"there is no folder \.\./none/a, and it is not a model's id"):
        BHViT.from_pretrained("../none/a")


class Hub:
    """A stand-in for the hub: repositories are folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[dict[str, Any]] = []

    def download(self, repo_id: str, filename: str, **settings: Any) -> str:
        self.asked.append(settings)
        if not (self.root / repo_id).is_dir():
            raise LocalEntryNotFoundError("no network\nand more")
        if not (self.root / repo_id / filename).is_file():
            raise EntryNotFoundError("404")
        return str(self.root / repo_id / filename)

    def __call__(self, token: str | None = None) -> Hub:
        self.token = token
        return self

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
        assert exist_ok
        if repo_id == "forbidden":
            raise OSError("403 Forbidden\nlong story")
        name = repo_id if "/" in repo_id else f"me/{repo_id}"
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return type("RepoUrl", (), {"repo_id": name})

    def file_exists(self, repo_id: str, filename: str, revision: str | None) -> bool:
        return (self.root / repo_id / filename).is_file()

    def upload_folder(
        self, repo_id: str, folder_path: str, commit_message: str, ignore_patterns: list[str] | None, **settings: Any
    ) -> str:
        self.asked.append(settings)
        for path in Path(folder_path).iterdir():
            if path.name not in (ignore_patterns or []):
                (self.root / repo_id / path.name).write_bytes(path.read_bytes())
        return f"commit {commit_message}"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path)
    monkeypatch.setattr(hub, "HfApi", fake)
    monkeypatch.setattr(hub, "hf_hub_download", fake.download)
    return fake


def test_what_is_pushed_comes_back(fake: Hub) -> None:
    model = _model()
    assert model.push_to_hub("nano", token="t", license="mit", commit_message="first") == "commit first"
    assert fake.token == "t"
    assert sorted(path.name for path in (fake.root / "me/nano").iterdir()) == FILES
    card = fake.root / "me" / "nano" / "README.md"
    assert "from_pretrained('me/nano')" in card.read_text(encoding="utf-8")
    card.write_text("edited")
    model.push_to_hub("me/nano", revision="next", create_pr=True)
    assert card.read_text() == "edited"
    assert fake.asked[-1] == {"revision": "next", "create_pr": True}
    images = torch.randn(2, 3, 32, 32)
    loaded = BHViT.from_pretrained("me/nano", revision="v1", local_files_only=True)
    assert torch.equal(loaded(images), model(images))
    assert fake.asked[-1]["revision"] == "v1"
    assert fake.asked[-1]["local_files_only"] is True


def test_what_the_hub_refuses_is_one_line(fake: Hub) -> None:
    with pytest.raises(UserError, match=r"the hub does not take forbidden: 403 Forbidden$"):
        _model().push_to_hub("forbidden")
    with pytest.raises(UserError, match=r"there is no folder me/none, and the hub does not give it: no network$"):
        BHViT.from_pretrained("me/none")
    _model().push_to_hub("me/nano")
    (fake.root / "me/nano" / hf_layout.PREPROCESSOR).unlink()
    assert BHViT.from_pretrained("me/nano").preprocess is None
    (fake.root / "me/nano" / hf_layout.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"me/nano has no model\.safetensors"):
        BHViT.from_pretrained("me/nano")


def test_names_and_licences_reach_no_card_as_markup(tmp_path: Path) -> None:
    hostile = ("<script>alert(1)</script>", "a | b", "[x](http://e.org)", "www.e.org", "`c`", "*d*", "e\x1b[31m\n# f")
    model = create_model("bhvit_nano", num_classes=len(hostile))
    model.class_names = hostile
    model.save_pretrained(tmp_path / "mine", license="mit\ntags: [evil]")
    _, metadata, text = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(metadata)
    assert fields["license"] == "mit\ntags: [evil]"
    assert fields["tags"][0] == "image-classification"
    for markup in ("<script", "a | b", "](http://e", "www.e.org", "`c`", "*d*", "\x1b", "\n# f"):
        assert markup not in text, markup
    assert "&lt;script&gt;alert" in text


@pytest.mark.parametrize("entry", ["load_checkpoint", "from_pretrained"])
def test_a_small_file_that_describes_a_huge_network_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    import safetensors.torch

    from bhvit.format.checkpoint import CheckpointDescription
    from bhvit.hf_layout import config
    from bhvit.models import load_checkpoint
    from bhvit.models.checkpoint import checksum
    from bhvit.spec.model import ModelSpec, StageSpec

    stages = (StageSpec(depth=3, channels=64, hidden=64, mixer="conv"),)
    spec = ModelSpec(name="huge", img_size=(8, 8), patch=2, num_classes=2, stages=stages)
    tensors = {"a": torch.zeros(2)}
    made: list[bool] = []
    real = BHViT.__init__

    def counted(self: BHViT, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        made.append(next(self.parameters()).is_meta)

    monkeypatch.setattr(BHViT, "__init__", counted)
    if entry == "load_checkpoint":
        path = tmp_path / "a.safetensors"
        described = CheckpointDescription(spec=spec, checksum=checksum(tensors))
        path.write_bytes(safetensors.torch.save(tensors, described.to_metadata()))
        with pytest.raises(UserError, match=r"tensor a is unknown"):
            load_checkpoint(path)
    else:
        (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        (tmp_path / "config.json").write_text(json.dumps(config(spec, None)))
        with pytest.raises(UserError, match=r"tensor a is unknown"):
            BHViT.from_pretrained(tmp_path)
    assert made == [True]
