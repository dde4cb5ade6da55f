"""`bhvit pack`."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from bhvit.format import file as bhv_file


def test_packs_next_to_the_checkpoint_by_default(bhvit, material, tmp_path):
    checkpoint = tmp_path / "mine.safetensors"
    shutil.copy(material.checkpoint, checkpoint)
    answer = bhvit("pack", checkpoint)
    assert answer.status == 0
    assert "times smaller" in answer.out
    assert "binary weights" in answer.out
    assert bhv_file.read(tmp_path / "mine.bhv").spec.name == "bhvit_nano"


def test_json_says_what_the_file_holds(bhvit, material, tmp_path):
    target = tmp_path / "m.bhv"
    found = json.loads(bhvit("pack", material.checkpoint, target, "--float-storage", "float32", "--json").out)
    assert found["bytes"] == target.stat().st_size
    assert found["bytes_by_kind"]["float16"] == 0
    assert found["classes"] == list(bhv_file.read(target).class_names)
    assert target.read_bytes() == material.model.read_bytes()


def test_an_existing_file_stays_without_force(bhvit, refused, material, tmp_path):
    target = tmp_path / "m.bhv"
    target.write_text("precious")
    assert "--force" in refused("pack", material.checkpoint, target)
    assert target.read_text() == "precious"
    assert bhvit("pack", material.checkpoint, target, "--force").status == 0
    assert bhv_file.read(target)


def test_an_existing_file_stays_when_packing_fails(refused, tmp_path):
    target, foreign = tmp_path / "m.bhv", tmp_path / "foreign.safetensors"
    target.write_text("precious")
    foreign.write_bytes(b"not a checkpoint")
    assert "foreign.safetensors" in refused("pack", foreign, target, "--force")
    assert target.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.safetensors", "m.bhv"]


def test_what_cannot_be_packed_is_refused(refused, material, tmp_path):
    assert "no checkpoint at" in refused("pack", tmp_path / "absent.safetensors", tmp_path / "m.bhv")
    assert "packed model" in refused("pack", material.model, tmp_path / "m.bhv")
    assert "does not exist" in refused("pack", material.checkpoint, tmp_path / "absent" / "m.bhv")
    assert "is a folder" in refused("pack", material.checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(refused, material, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot write" in refused("pack", material.checkpoint, tmp_path / "m.bhv")


def test_a_folder_that_is_no_folder_is_refused(refused, material):
    assert "cannot write" in refused("pack", material.checkpoint, "/dev/null/m.bhv")


def test_the_checkpoint_itself_is_never_replaced(refused, material, tmp_path, monkeypatch):
    checkpoint = tmp_path / "m.bhv"
    shutil.copy(material.checkpoint, checkpoint)
    (tmp_path / "link.bhv").symlink_to("m.bhv")
    (tmp_path / "hard.bhv").hardlink_to(checkpoint)
    before = checkpoint.read_bytes()
    monkeypatch.chdir(tmp_path)
    for target in ("m.bhv", "./m.bhv", checkpoint, "link.bhv", "hard.bhv"):
        assert "is the checkpoint itself" in refused("pack", "m.bhv", target, "--force")
    assert "is the checkpoint itself" in refused("pack", "m.bhv", "--force")
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors", "m.PT", "m.pth", "m.json", "m.txt", "m", "m.BHV"])
def test_the_ending_of_another_format_is_refused(refused, material, tmp_path, name):
    assert "end it in .bhv" in refused("pack", material.checkpoint, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
