"""Published weights from files: wrappers, hostile pickles, and names that do not fit."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bhvit.errors import UserError
from bhvit.models import create_model, from_published, to_published
from bhvit.models.network import BHViT
from bhvit.models.registry import model_spec
from randomise import randomise

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("bhvit_tiny", {}),
    "full-precision downsampling": ("bhvit_tiny_fp", {}),
    "GSB": ("bhvit_tiny", {"attention": "gsb"}),
    "layer norm": ("bhvit_tiny", {"norm": "layer"}),
    "shift 3 alone": ("bhvit_tiny", {"shifts": (3,)}),
    "no shifts": ("bhvit_tiny", {"shifts": ()}),
    "seven classes at 448": ("bhvit_tiny", {"num_classes": 7, "img_size": 448}),
    "greyscale": ("bhvit_tiny", {"in_chans": 1}),
    "BinaryViT": ("binaryvit_small", {}),
    "BinaryViT, full-precision downsampling": ("binaryvit_small_fp", {}),
    "BinaryViT, layer norm, pooling 5 alone": ("binaryvit_small", {"norm": "layer", "shifts": (5,)}),
}


def _state(name: str = "bhvit_tiny", **fields: Any) -> dict[str, torch.Tensor]:
    return to_published(randomise(create_model(name, **fields)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_architecture_is_inferred_from_names_and_shapes(variant: str) -> None:
    name, fields = VARIANTS[variant]
    published = _state(name, **fields)
    model = from_published(published)
    assert model.spec == model_spec(name, **fields)
    assert not model.training
    back = to_published(model)
    assert all(torch.equal(back[key], value) for key, value in published.items())


def test_full_precision_variants_have_no_attention_quantiser() -> None:
    import dataclasses

    spec = model_spec("bhvit_tiny")
    stages = tuple(dataclasses.replace(stage, weight_bits=32, activation_bits=32) for stage in spec.stages)
    model = randomise(BHViT(dataclasses.replace(spec, stages=stages)))
    loaded = from_published(to_published(model))
    assert loaded.spec.stages == stages
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.parametrize("wrapper", ["", "model", "model_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_with_the_wrappers_seen_in_the_wild(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = _state(img_size=32)
    weights = {prefix + key: value for key, value in state.items()}
    extras = {"epoch": 99, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1), "best": np.float64(3.0)}
    path = tmp_path / "checkpoint.pth"
    torch.save({wrapper: weights, **extras} if wrapper else weights, path)
    back = to_published(from_published(path))
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_safetensors_and_arrays_and_double_precision(tmp_path: Path) -> None:
    state = _state(img_size=32)
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "w.safetensors")
    assert from_published(tmp_path / "w.safetensors").spec.img_size == (32, 32)
    doubled = {k: v.double().numpy() if v.is_floating_point() else v.numpy() for k, v in state.items()}
    assert next(from_published(doubled).parameters()).dtype == torch.float64


def test_a_pickle_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    path = tmp_path / "hostile.pth"
    torch.save({"model": _state(img_size=32), "args": Hostile()}, path)
    assert from_published(path).spec.name == "bhvit_tiny"
    assert not marker.exists()
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError):
        from_published(tmp_path / "bare.pth")
    assert not marker.exists()


def test_names_that_do_not_fit_are_listed() -> None:
    state = _state(img_size=32)
    state["vit.extra.weight"] = torch.zeros(3)
    del state["vit.encoder.layerB.1.output.move"]
    state["classifier.bias"] = torch.zeros(5)
    with pytest.raises(UserError) as caught:
        from_published(state)
    for part in (
        "vit.encoder.layerB.1.output.move is missing",
        "vit.extra.weight is unknown",
        "classifier.bias has shape [5]",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04rubbish", b"not a checkpoint at all"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        from_published(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


def test_a_file_cut_short_and_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(_state(img_size=32), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not a whole"):
        from_published(path)
    with pytest.raises(UserError, match="no file at"):
        from_published(tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"no name begins with 'vit\.'"):
        from_published({"layer1.weight": torch.zeros(2)})
    with pytest.raises(UserError, match="is missing"):
        from_published({"vit.layernorm.weight": torch.zeros(2)})
