"""Packed models as ONNX graphs: every op and variant in ONNX Runtime, against the native engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bhvit import Session
from bhvit.errors import UserError
from bhvit.format import file as bhv_file
from bhvit.format.file import PackedModel
from bhvit.format.ops import OPS
from bhvit.spec.model import ModelSpec
from helpers.random_model import random_images, random_model
from helpers.small_specs import SPECS
from helpers.variants import VARIANTS

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from bhvit.integrations.onnx import to_onnx  # noqa: E402
from bhvit.integrations.onnx.export import EXPORTERS  # noqa: E402

ALL = {spec.name: spec for spec in [*SPECS, *VARIANTS.values()]}
SEEDS = {"tall-windows": 1}
"""Of weights other than the first: with those a value lies at rounding distance from a threshold, and falls on the
other side in ONNX Runtime, which sums in another order."""


def run(data: bytes, images: Any) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def check(model: PackedModel, weights: Any = "int8", batch: int = 2) -> int:
    images, data = random_images(model.spec, batch), to_onnx(model, weights)
    expected, found = Session(bhv_file.to_bytes(model))(images), run(data, images)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(found - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max())
    return len(data)


def test_every_op_has_an_exporter() -> None:
    assert set(OPS) == set(EXPORTERS)
    assert {op.kind for spec in ALL.values() for op in random_model(spec).ops} == set(OPS)


@pytest.mark.parametrize("spec", ALL.values(), ids=ALL)
def test_every_variant_computes_the_same(spec: ModelSpec) -> None:
    check(random_model(spec, seed=SEEDS.get(spec.name, 0)))


@pytest.mark.parametrize("name", ["published-96x64", "layer-gsb", "one-bit-pooled"])
def test_weights_as_bits_and_as_floats(name: str) -> None:
    model = random_model(ALL[name], half=True)  # floats in float16: their storage stays, too
    int8, bits, floats = (check(model, weights) for weights in ("int8", "bits", "float32"))
    weights = 32 * sum(tensor.size for tensor in model.tensors.values() if tensor.dtype == np.uint32)
    assert floats - int8 == pytest.approx(3 * weights, rel=0.03)
    assert floats - bits == pytest.approx((4 - 1 / 8) * weights, rel=0.03)


def test_floats_of_eight_bits() -> None:
    from bhvit import create_model
    from bhvit.packing.packed import packed_model
    from helpers.randomise import randomise

    model = randomise(create_model("bhvit_nano", num_classes=20, img_size=32))
    check(packed_model(model, float_storage="int8"))


def test_any_batch_and_only_standard_operators() -> None:
    model = random_model(ALL["one-channel"])
    data = to_onnx(model)
    loaded = onnx.load_from_string(data)
    onnx.checker.check_model(loaded, full_check=True)
    assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", 17)]
    assert all(node.domain == "" for node in loaded.graph.node)
    images = random_images(model.spec, 5)
    whole = run(data, images)
    for count in (0, 1, 4):
        assert np.abs(run(data, images[:count]) - whole[:count]).max(initial=0) < 1e-4
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    assert json.loads(metadata["class_names"]) == list(model.class_names)
    assert metadata["preprocess"] == model.preprocess.to_json()
    assert to_onnx(model) == data


def test_unknown_storage_is_refused() -> None:
    with pytest.raises(UserError, match="weights must be one of int8, bits, float32, not 'int4'"):
        to_onnx(random_model(ALL["one-token"]), "int4")  # type: ignore[arg-type]


def test_an_export_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from bhvit.cli.main import main; "
        f"status = main(['export', 'cifar10', {str(tmp_path / 'out.onnx')!r}]); "
        "sys.exit(status or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "out.onnx").stat().st_size < 3_200_000


def test_what_no_onnx_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhvit.integrations.onnx.graph.MAX_BYTES", 10_000)
    with pytest.raises(UserError, match="weights would take more than 10000 bytes, which is all that an ONNX file"):
        to_onnx(random_model(SPECS[0]))
