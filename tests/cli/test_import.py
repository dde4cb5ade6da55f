"""`bhvit import`."""

from __future__ import annotations

import json

import torch

from bhvit.models import create_model, load_checkpoint, to_published
from helpers.randomise import randomise


def _weights(path):
    model = randomise(create_model("bhvit_tiny", num_classes=3, img_size=32))
    torch.save({"model": to_published(model)}, path)
    return model


def test_published_weights_become_a_checkpoint_that_packs(bhvit, tmp_path):
    model = _weights(tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nfox\n")
    out = tmp_path / "c.safetensors"
    answer = bhvit("import", tmp_path / "w.pth", "--out", out, "--classes", tmp_path / "names.txt", "--json")
    assert answer.status == 0
    assert json.loads(answer.out)["spec"] == "bhvit_tiny"
    loaded = load_checkpoint(out)
    assert loaded.class_names == ("cat", "dog", "fox")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert bhvit("pack", out, tmp_path / "m.bhv").status == 0


def test_what_cannot_be_imported_is_refused(refused, tmp_path):
    _weights(tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\n")
    out = tmp_path / "c.safetensors"
    assert "no file at" in refused("import", tmp_path / "absent.pth", "--out", out)
    assert "has 1 name, the weights 3" in refused(
        "import", tmp_path / "w.pth", "--out", out, "--classes", tmp_path / "names.txt"
    )
    assert "cannot read" in refused("import", tmp_path / "w.pth", "--out", out, "--classes", tmp_path / "none.txt")
    assert "is a folder" in refused("import", tmp_path, "--out", out)
    assert "is a .safetensors file" in refused("import", tmp_path / "w.pth", "--out", tmp_path / "c.pth")
    same = tmp_path / "same.safetensors"
    same.write_bytes(b"theirs")
    assert "is the file of published weights itself" in refused("import", same, "--out", same, "--force")
    assert same.read_bytes() == b"theirs"
    (tmp_path / "other.pth").write_bytes(b"rubbish")
    assert "not a whole" in refused("import", tmp_path / "other.pth", "--out", out)
    assert not out.exists()
    out.write_text("precious")
    assert "--force" in refused("import", tmp_path / "w.pth", "--out", out)
    assert out.read_text() == "precious"


def test_what_names_do_not_tell_can_be_said(bhvit, tmp_path):
    _weights(tmp_path / "w.pth")
    out = tmp_path / "c.safetensors"
    assert bhvit("import", tmp_path / "w.pth", "--out", out, "--weight-bits", 32, "--recu").status == 0
    spec = load_checkpoint(out).spec
    assert spec.recu
    assert {(stage.weight_bits, stage.activation_bits) for stage in spec.stages} == {(32, 1)}
