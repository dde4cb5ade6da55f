"""Models through `torch.onnx.export` with a free batch, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bhvit
from bhvit.spec.model import StageSpec
from helpers.randomise import randomise

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _stages(*mixers: str, **settings: Any) -> tuple[StageSpec, ...]:
    kinds: Any = mixers
    return tuple(StageSpec(depth=1, channels=64, hidden=128, mixer=mixer, **settings) for mixer in kinds)


# Every mixer, quantiser, norm and number of bits, in as few exports as will do: each takes seconds.
CASES: dict[str, dict[str, Any]] = {
    "published": {"stages": _stages("conv", "attention")},
    "binaryvit": {
        "stages": (*_stages("pooled_attention", key_pool=2), *_stages("pooling", "pooled_attention", heads=2)),
        "attention": "one_bit",
        "branches": "pool",
        "stem_activation": "none",
        "centre_conv_weights": False,
        "norm": "layer",
        "downsample": "float",
        "patch": 2,
    },
    "gsb": {"stages": _stages("attention"), "attention": "gsb", "float_bits": 8, "recu": True, "stem_kernel": 6},
    "floats": {
        "stages": (*_stages("conv", weight_bits=32), *_stages("attention", activation_bits=32)),
        "shifts": "none",
    },
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_an_exported_model_gives_the_same_logits_for_any_batch(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(bhvit.create_model("bhvit_nano", num_classes=3, img_size=16, **CASES[case])).eval()
    free = {"images": {0: torch.export.Dim("batch")}}
    program: Any = torch.onnx.export(
        model, (torch.randn(2, 3, 16, 16),), dynamo=True, dynamic_shapes=free, verbose=False
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert isinstance(images.shape[0], str)
    for batch in (1, 5):
        pixels = torch.randn(batch, 3, 16, 16)
        with torch.inference_mode():
            expected = model(pixels).numpy()
        (logits,) = session.run(None, {images.name: pixels.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
