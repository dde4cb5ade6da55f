"""Published weights from files: wrappers, hostile pickles, and names that do not fit."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bhvit.errors import UserError
from bhvit.models import create_model, from_published, to_published
from bhvit.models.network import BHViT
from bhvit.models.published.convert import PublishedWeightsError, infer_spec
from bhvit.spec.sizes import model_spec
from helpers.randomise import randomise

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("bhvit_tiny", {}),
    "full-precision downsampling": ("bhvit_tiny_fp", {}),
    "GSB": ("bhvit_tiny", {"attention": "gsb"}),
    "layer norm": ("bhvit_tiny", {"norm": "layer"}),
    "shift 3 alone": ("bhvit_tiny", {"shifts": (3,)}),
    "no shifts": ("bhvit_tiny", {"shifts": ()}),
    "a wide image": ("bhvit_tiny", {"img_size": (224, 448)}),
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
    with pytest.raises(UserError, match=r"it asks for posix\.system; save model\.state_dict\(\) alone"):
        from_published(path)
    assert not marker.exists()
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"is not a whole \.pth or \.safetensors file"):
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
    with pytest.raises(UserError, match="no block under vit"):
        from_published({"vit.layernorm.weight": torch.zeros(2)})
    torch.save(argparse.Namespace(), path)
    with pytest.raises(UserError, match="holds a pickled object, not a state dict"):
        from_published(path)


def _small(name: str, **fields: Any) -> dict[str, torch.Tensor]:
    """Published weights with a block a stage."""
    spec = model_spec(name, img_size=32, num_classes=3, **fields)
    stages = tuple(dataclasses.replace(stage, depth=1) for stage in spec.stages)
    return to_published(randomise(BHViT(dataclasses.replace(spec, stages=stages))))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bhvit_tiny", {}),
        ("bhvit_tiny", {"attention": "gsb", "norm": "layer", "shifts": (5,)}),
        pytest.param("bhvit_tiny_fp", {"shifts": ()}, marks=pytest.mark.long),
        ("binaryvit_small", {}),
        pytest.param("binaryvit_small_fp", {"norm": "layer", "shifts": (3,)}, marks=pytest.mark.long),
    ],
)
def test_no_entry_decides_alone(name: str, fields: dict[str, Any]) -> None:
    shapes = {key: tuple(value.shape) for key, value in _small(name, **fields).items()}
    spec = infer_spec(shapes)
    for key, shape in shapes.items():
        assert infer_spec({k: v for k, v in shapes.items() if k != key}) == spec, key
        assert infer_spec({**shapes, key: (*shape, 1)}) == spec, key
        if key.endswith(("proj.weight", "projection.weight", "quantizer.alpha", "classifier.weight")):
            continue  # a width that only one other entry tells, or none
        assert infer_spec({**shapes, key: tuple(2 * edge for edge in shape)}) == spec, key
    for stray in ("vit.encoder.layerB.2.norm.running_var", "vit.encoder.layer.7.x", "vit.encoder.layerA.0.GC.x"):
        assert infer_spec({**shapes, stray: (4,)}) == spec


def test_another_shape_of_as_many_numbers_is_refused() -> None:
    state = _small("bhvit_tiny")
    for name in ("vit.encoder.layerA.0.output.dense.weight", "vit.encoder.layerB.0.attention.attention.moveq"):
        strange = {**state, name: state[name].reshape(-1, 2)}
        with pytest.raises(PublishedWeightsError) as caught:
            from_published(strange)
        shape = list(state[name].shape)
        assert caught.value.problems == (f"{name} has shape {list(strange[name].shape)}, not {shape}",)
    twice = {**state, "vit.embeddings.position_embeddings": torch.zeros(2, 64, 8, 8)}
    with pytest.raises(PublishedWeightsError, match=r"position_embeddings has shape \[2, 64, 8, 8\]"):
        from_published(twice)


def test_every_problem_is_kept_and_many_are_listed() -> None:
    state = _small("bhvit_tiny")
    gone = [name for name in state if ".rprelu" in name]
    with pytest.raises(PublishedWeightsError) as caught:
        from_published({name: value for name, value in state.items() if name not in gone})
    assert set(caught.value.problems) == {f"{name} is missing" for name in gone}
    assert str(caught.value).count(" is missing") == 50
    assert str(caught.value).endswith(f" and {len(gone) - 50} more")


def test_entries_that_are_no_arrays_are_listed() -> None:
    state: dict[str, Any] = dict(_small("bhvit_tiny"))
    state["vit.layernorm.weight"] = state["vit.layernorm.weight"].tolist()
    state["vit.layernorm.bias"] = state["vit.layernorm.bias"] * 1j
    state["classifier.bias"] = np.array([None, None, None])
    state["classifier.weight"] = state["classifier.weight"].to_sparse()
    state["epoch"] = 7
    with pytest.raises(PublishedWeightsError) as caught:
        from_published(state)
    names = ("vit.layernorm.weight", "vit.layernorm.bias", "classifier.bias", "classifier.weight")
    assert set(caught.value.problems) == {"epoch is unknown", *(f"{n} is no array of real numbers" for n in names)}


def test_half_precision_becomes_single() -> None:
    state = _small("bhvit_tiny")
    for kind in (torch.float16, torch.bfloat16):
        narrow = {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
        back = to_published(from_published(narrow))
        assert all(back[k].dtype == state[k].dtype and torch.equal(back[k], v.to(back[k])) for k, v in narrow.items())


def test_arrays_in_any_order_of_bytes_and_elements() -> None:
    state = _small("bhvit_tiny")
    arrays = {name: value.numpy() for name, value in state.items()}
    strange = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    strange["classifier.weight"] = arrays["classifier.weight"][::-1].copy()[::-1]
    back = to_published(from_published(strange))
    assert all(torch.equal(back[name], value) for name, value in state.items())


def test_shapes_that_no_memory_holds_are_refused() -> None:
    state = _small("bhvit_tiny")
    many = {"classifier.weight": torch.zeros(1).expand(1 << 40, 512), "classifier.bias": torch.zeros(1).expand(1 << 40)}
    with pytest.raises(UserError, match=r"classifier\.weight is no array of real numbers"):
        from_published({**state, **many})
    wide = {name: torch.zeros(1 << 20) for name in state if ".0.layernorm" in name or ".0.intermediate.move" in name}
    with pytest.raises(UserError):
        from_published({**state, **wide})


def test_sources_that_are_neither_weights_nor_paths_are_refused() -> None:
    for source in ([1], None, b"weights.pth"):
        with pytest.raises(UserError, match="a state dict or the path of one, not a"):
            from_published(source)  # type: ignore[arg-type]


def test_what_names_do_not_tell_can_be_said() -> None:
    state = _small("bhvit_tiny", attention="gsb")
    model = from_published(state, weight_bits=32, heads=(1, 1, 2, 4), recu=True)
    assert [stage.heads for stage in model.spec.stages] == [1, 1, 2, 4]
    assert {(stage.weight_bits, stage.activation_bits) for stage in model.spec.stages} == {(32, 1)}
    assert model.spec.recu
    with pytest.raises(UserError, match="heads must be 4 numbers"):
        from_published(state, heads=(1, 2))
    with pytest.raises(UserError, match="weight_bits must be 1 or 32"):
        from_published(state, weight_bits=2)
    with pytest.raises(PublishedWeightsError, match=r"att_prob_quantizer.alpha has shape \[4\], not \[2\]"):
        from_published(_small("bhvit_tiny"), heads=(1, 1, 2, 8))


def test_relatives_and_models_of_our_own_are_refused() -> None:
    state = _small("binaryvit_small")
    plain = {name: value for name, value in state.items() if ".patch_embed" not in name}
    with pytest.raises(UserError, match="a plain vision transformer"):
        from_published(plain)
    spec = model_spec("bhvit_tiny", img_size=32)
    pooled = (dataclasses.replace(spec.stages[0], mixer="pooling"), *spec.stages[1:])
    with pytest.raises(UserError, match="no published names"):
        to_published(BHViT(dataclasses.replace(spec, stages=pooled)))


def test_names_that_are_there_twice_and_wrappers_without_end_are_refused() -> None:
    state = _small("bhvit_tiny")
    with pytest.raises(UserError, match=r"vit\.layernorm\.weight is there twice"):
        from_published({**state, "module.vit.layernorm.weight": state["vit.layernorm.weight"]})
    endless: dict[str, Any] = {}
    endless["model"] = endless
    with pytest.raises(UserError, match="no name begins"):
        from_published(endless)


def test_objects_stored_with_the_weights_may_be_of_any_kind(tmp_path: Path) -> None:
    others = {"path": tmp_path, "kinds": {1, 2}, "call": functools.partial(print, 3), "bound": tmp_path.exists}
    torch.save({"model": _state(img_size=32), **others, "array": np.arange(3)}, tmp_path / "w.pth")
    assert from_published(tmp_path / "w.pth").spec.name == "bhvit_tiny"
    torch.save(_state(img_size=32), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert from_published(tmp_path / "old.pth").spec.name == "bhvit_tiny"


def test_programs_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "program.pth"
    torch.save({}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/constants.pkl", b"")
    with pytest.raises(UserError, match="TorchScript program"):
        from_published(path)


def test_damaged_files_are_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"vit.x": torch.zeros(3)}, "args": argparse.Namespace(a=1)}, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 4):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            from_published(path)
        assert "\n" not in str(caught.value)


def test_a_block_that_is_missing_whole_is_named() -> None:
    state = to_published(create_model("bhvit_tiny", img_size=32))
    gap = {name: value for name, value in state.items() if not name.startswith("vit.encoder.layerB.3.")}
    gap["vit.strange"] = torch.zeros(1)
    with pytest.raises(PublishedWeightsError) as caught:
        from_published(gap)
    names = sum(name.startswith("vit.encoder.layerB.3.") for name in state)
    assert caught.value.problems == (
        f"vit.encoder.layerB.3 is missing, all {names} names",
        "vit.strange is unknown",
    )


def test_what_is_plainly_something_else_is_called_so(tmp_path: Path) -> None:
    model = create_model("bhvit_tiny", img_size=32)
    with pytest.raises(UserError, match="weights of our own"):
        from_published(model.state_dict())
    empty: dict[str, Any]
    for empty in ({}, {"model": {}}):
        with pytest.raises(UserError, match="no entry at all"):
            from_published(empty)
    arrays = {name: value.numpy() for name, value in to_published(model).items()}
    torch.save(arrays, tmp_path / "arrays.pth")
    with pytest.raises(UserError, match="NumPy arrays in a pickle are not read"):
        from_published(tmp_path / "arrays.pth")
