"""`bhvit export`, and `bhvit verify` of what it writes."""

from __future__ import annotations

import json

import pytest

from bhvit.format import file as bhv_file
from helpers.random_model import random_model
from helpers.small_specs import SPECS

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_an_exported_model_agrees(bhvit, material, tmp_path):
    out = tmp_path / "model.onnx"
    found = json.loads(bhvit("export", material.model, out, "--json").out)
    assert found["bytes"] == out.stat().st_size
    words = ("verify", out, material.model, "--data", material.images, "--split", "all")
    answer = bhvit(*words, "--checkpoint", material.checkpoint)
    assert (answer.status, answer.err) == (0, "")
    assert "top-1 agreement with PyTorch" in answer.out
    assert answer.out.rstrip().endswith("passed")
    found = json.loads(bhvit(*words, "--json").out)
    assert found["agreement"] == 1
    assert list(found["others"]) == ["packed file"]
    assert found["onnx_top1"] == found["others"]["packed file"]["top1"]
    pictures = json.loads(bhvit(*words, "--unlabelled", "--limit", 3, "--json").out)
    assert (pictures["images"], pictures["onnx_top1"]) == (3, None)


def test_weights_as_bits(bhvit, material, tmp_path):
    sizes = {}
    for weights in ("int8", "bits"):
        out = tmp_path / f"{weights}.onnx"
        assert f"weights as {weights}" in bhvit("export", material.model, out, "--weights", weights).out
        sizes[weights] = out.stat().st_size
    assert sizes["bits"] < sizes["int8"] / 2


def test_another_models_export_fails_the_check(bhvit, material, tmp_path):
    packed, out = tmp_path / "other.bhv", tmp_path / "other.onnx"
    assert bhvit("pack", material.run / "other.safetensors", packed).status == 0
    assert bhvit("export", packed, out).status == 0
    answer = bhvit("verify", out, material.model, "--data", material.images, "--split", "all")
    assert answer.status == 1
    assert "FAILED" in answer.out


def test_mistakes_are_one_line(refused, bhvit, material, tmp_path):
    out = tmp_path / "model.onnx"
    assert bhvit("export", material.model, out).status == 0
    data = ("--data", material.images)
    assert "exists" in refused("export", material.model, out)
    before = material.model.read_bytes()
    assert "must end in .onnx" in refused("export", material.model, material.model, "--force")
    assert material.model.read_bytes() == before
    assert "bhvit pack" in refused("export", material.checkpoint, tmp_path / "x.onnx")
    assert "absent" in refused("export", "absent.bhv", tmp_path / "x.onnx")
    assert "format" in refused("export", material.model, tmp_path / "x.onnx", "--format", "tflite")
    assert "does not exist" in refused("export", material.model, tmp_path / "absent" / "x.onnx")
    assert "goes with an exported model" in refused(
        "verify", material.checkpoint, material.model, *data, "--checkpoint", material.checkpoint
    )
    assert "there is no file" in refused("verify", tmp_path / "absent.onnx", material.model, *data)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(out.read_bytes()[:1000])
    assert "no ONNX model" in refused("verify", broken, material.model, *data)
    other = tmp_path / "other.bhv"
    bhv_file.write(random_model(SPECS[0]), other)
    assert "was not exported from" in refused("verify", out, other, "--data", material.images, "--unlabelled")


def _changed(path, change):
    """A copy of an exported model with a change."""
    import onnx

    model = onnx.load(path)
    change(model)
    out = path.with_name(f"changed-{path.name}")
    out.write_bytes(model.SerializeToString())
    return out


def _rename(model, old, new):
    for values in (model.graph.input, model.graph.output):
        for value in values:
            value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _set_metadata(model, text):
    (entry,) = [entry for entry in model.metadata_props if entry.key == "spec"]
    entry.value = text


def _answer_images(model):
    """Make a model's logits its images."""
    import onnx

    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Identity", ["images"], ["logits"]))
    model.graph.output[0].type.CopyFrom(model.graph.input[0].type)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: _set_metadata(model, "not JSON"), "was not exported from"),
        (lambda model: _set_metadata(model, "[" * 100_000), "was not exported from"),
        (lambda model: _set_metadata(model, "[]"), "was not exported from"),
        (lambda model: _rename(model, "images", "pictures"), "no ONNX model that ONNX Runtime can run"),
        (lambda model: _rename(model, "logits", "answers"), "no ONNX model that ONNX Runtime can run"),
        (lambda model: model.graph.node.pop(), "no ONNX model that ONNX Runtime can run"),
        (_answer_images, "gives no float32 logits of the shape"),
    ],
)
def test_an_export_that_somebody_changed(refused, bhvit, material, tmp_path, change, said):
    out = tmp_path / "model.onnx"
    assert bhvit("export", material.model, out).status == 0
    changed = _changed(out, change)
    assert said in refused("verify", changed, material.model, "--data", material.images, "--split", "all")
