"""Files that released versions wrote still load: a packed model, a checkpoint and a run of 0.1.0."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import bhvit
from bhvit.data.metrics import Metrics
from bhvit.format import file as bhv_file
from bhvit.runtime import reference

RELEASED = Path(__file__).with_name("released") / "0.1.0"
IMAGES = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
STAGES = """
from bhvit.spec import sizes
from bhvit.spec import StageSpec
sizes._MODELS["small"] = (8, {"stages": (
    StageSpec(depth=1, channels=32, hidden=32, mixer="pooling"),
    StageSpec(depth=1, channels=32, hidden=32, mixer="attention", heads=1),
)})
"""


def test_a_packed_file_gives_the_same_logits() -> None:
    expected = np.load(RELEASED / "logits.npy")
    path = RELEASED / "model.bhv"
    np.testing.assert_array_equal(bhvit.Session(path)(IMAGES), expected)
    np.testing.assert_array_equal(reference.run(bhv_file.read(path), IMAGES), expected)
    assert bhv_file.read(path).spec.float_bits == 8


def test_a_checkpoint_gives_the_same_model() -> None:
    torch = pytest.importorskip("torch")
    model = bhvit.load_checkpoint(RELEASED / "run" / "best.safetensors")
    with torch.no_grad():
        logits = model(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(logits, np.load(RELEASED / "torch.npy"), rtol=1e-5, atol=1e-5)


def test_a_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from bhvit.spec import sizes
    from bhvit.train import train
    from bhvit.train.run_folder import RunFolder

    folder = shutil.copytree(RELEASED / "run", tmp_path / "run")
    before = (folder / "last.safetensors").read_bytes()
    monkeypatch.setattr(sizes, "_MODELS", dict(sizes._MODELS))  # tests of training have a model of that name
    exec(STAGES)
    values = {**RunFolder(folder).saved_config().to_dict(), "out": str(folder)}
    assert values["float_bits"] == 8
    config = type(RunFolder(folder).saved_config()).from_dict(values)
    result = train(config, resume=True, quiet=True)
    assert len(result.log) == 2
    assert (folder / "last.safetensors").read_bytes() == before
    assert isinstance(result.metrics, Metrics)
    assert result.metrics.top1 == pytest.approx(result.log[-1]["val_top1"])
