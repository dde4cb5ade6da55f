"""The models as timm's users meet them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters

import bhvit
from bhvit.calibration import Calibration
from bhvit.errors import UserError
from bhvit.models import BHViT, create_model, list_models, save_checkpoint
from bhvit.packing import pack
from bhvit.spec import StageSpec
from helpers.randomise import randomise


def _python(code: str) -> str:
    strict = ("-W", "error::RuntimeWarning")  # what a registration that fails ends in
    result = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import timm, bhvit",
        "import bhvit, timm.layers, importlib; importlib.reload(timm)",
        "import bhvit; bhvit.create_model; import timm",
        "import bhvit.models; import timm",
    ],
)
@pytest.mark.long
def test_either_order_of_importing_registers_every_model(code: str) -> None:
    assert _python(f"{code}\nprint(all(map(timm.is_model, bhvit.models.list_models())))") == "True"


@pytest.mark.long
def test_a_library_that_cannot_be_imported_fails_as_without_us_and_can_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('broken')")
    code = f"""
import sys, bhvit
sys.path.insert(0, {str(tmp_path)!r})
try:
    import timm
except RuntimeError as error:
    print(error, "timm" in sys.modules)
del sys.path[0]
import importlib
importlib.invalidate_caches()
import timm
print(timm.is_model("bhvit_nano"))
"""
    assert _python(code).split("\n") == ["broken False", "True"]


def test_a_library_without_what_we_need_is_imported_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("answer = 42")
    code = f"""
import sys, warnings, bhvit
sys.path.insert(0, {str(tmp_path)!r})
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import timm
print(timm.answer, [str(w.message) for w in seen if "bhvit could not register" in str(w.message)] != [])
"""
    assert _python(code) == "42 True"


def test_create_model_takes_the_usual_settings() -> None:
    model = timm.create_model("bhvit_nano", num_classes=5, img_size=(48, 32), in_chans=1, drop_path_rate=0.2)
    assert isinstance(model, BHViT)
    assert (model.num_classes, model.num_features, model.in_chans) == (5, 256, 1)
    assert model.spec.img_size == (48, 32)
    assert model.eval()(torch.randn(2, 1, 48, 32)).shape == (2, 5)
    last: Any = model.stages[-1]
    assert last[-1].drop_path.drop_prob == pytest.approx(0.2)
    with pytest.raises(UserError, match="drop_rate must be 0"):
        timm.create_model("bhvit_nano", drop_rate=0.1)
    with pytest.raises(UserError, match="multiples of 32"):
        timm.create_model("bhvit_small", img_size=50)


@pytest.mark.parametrize("name", list_models())
def test_the_default_configuration_says_what_goes_in(name: str) -> None:
    model = timm.create_model(name)
    size = model.spec.img_size
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, *size)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert model.default_cfg["num_classes"] == model.num_classes == 1000
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    assert isinstance(model.get_submodule(model.default_cfg["first_conv"]), torch.nn.Conv2d)


def test_parameters_are_ordered_from_stem_to_head() -> None:
    model = timm.create_model("bhvit_nano")
    order = {
        coarse: [names[0].rsplit(".", 1)[0] for names in group_parameters(model, model.group_matcher(coarse)).values()]
        for coarse in (False, True)
    }
    parts = [".".join(name.split(".")[:3]).removesuffix(".mixer_norm") for name in order[False]]
    assert parts == [
        "stem",
        "stages.0.0",
        "stages.0.1",
        "downsamples.0",
        "stages.1.0",
        "stages.1.1",
        "downsamples.1",
        "stages.2.0",
        "stages.2.1",
        "head.norm",
    ]
    assert len(order[True]) == 5


def test_pretrained_weights_are_refused_since_there_are_none() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for bhvit_nano"):
        timm.create_model("bhvit_nano", pretrained=True)


def test_a_checkpoint_of_ours_loads_through_timm(tmp_path: Path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    save_checkpoint(model, tmp_path / "m.safetensors")
    images = torch.randn(2, 3, 32, 32)
    loaded = timm.create_model("bhvit_nano", num_classes=3, checkpoint_path=str(tmp_path / "m.safetensors")).eval()
    assert torch.equal(loaded(images), model(images))
    overlay = {"file": str(tmp_path / "m.safetensors"), "num_classes": 3}
    finer = timm.create_model("bhvit_nano", num_classes=7, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert torch.equal(finer.forward_features(images), model.forward_features(images))


def test_features_only_gives_the_four_stages_and_their_strides() -> None:
    model = timm.create_model("bhvit_small", features_only=True, img_size=64, out_indices=(0, 1, 2, 3)).eval()
    maps = model(torch.randn(2, 3, 64, 64))
    assert model.feature_info.channels() == [64, 128, 256, 512]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [tuple(m.shape) for m in maps] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4), (2, 512, 2, 2)]


@pytest.mark.parametrize("feature_cls", ["getter", "hook"])
def test_features_are_what_flows_between_the_stages(feature_cls: str) -> None:
    torch.manual_seed(0)
    model = randomise(create_model("bhvit_nano", num_classes=4))
    images = torch.randn(2, 3, 32, 32)
    tokens, maps = model.forward_intermediates(images)
    assert torch.equal(tokens, model.forward_features(images))
    assert torch.equal(maps[-1].permute(0, 2, 3, 1), tokens)
    features = timm.create_model("bhvit_nano", features_only=True, out_indices=(0, 1), feature_cls=feature_cls).eval()
    missing = (features.model if feature_cls == "getter" else features.body).load_state_dict(
        model.state_dict(), strict=False
    )
    assert missing.missing_keys == []
    shown = features(images)
    if feature_cls == "hook":
        shown = [m.permute(0, 3, 1, 2) for m in shown]
    assert all(torch.equal(a, b) for a, b in zip(shown, maps[:2], strict=True))


def test_feature_maps_come_in_either_order_of_axes_normalised_or_cut_short() -> None:
    model = randomise(create_model("bhvit_nano", num_classes=4))
    images = torch.randn(1, 3, 32, 32)
    (last,) = model.forward_intermediates(images, 1, norm=True, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last.mean(dim=(1, 2)), model.forward_head(model.forward_features(images), pre_logits=True))
    tokens, maps = model.forward_intermediates(images, [-3, 1], stop_early=True)
    assert [m.shape[2] for m in maps] == [8, 4]
    assert tokens.shape == (1, 4, 4, 128)
    for wrong in (4, 0, [3], [-4], []):
        with pytest.raises(UserError, match="bhvit_nano has stages 0 to 2; no feature maps of"):
            model.forward_intermediates(images, wrong)
    with pytest.raises(UserError, match="output_fmt"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_a_pruned_backbone_has_only_what_its_maps_need() -> None:
    features = timm.create_model("bhvit_nano", features_only=True, out_indices=(0, 1))
    loss = sum(m.square().mean() for m in features(torch.randn(2, 3, 32, 32)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert [name for name, parameter in features.named_parameters() if parameter.grad is None] == []


def test_the_head_comes_apart_and_the_classifier_off_and_on(tmp_path: Path) -> None:
    model = randomise(create_model("bhvit_nano", num_classes=3))
    model.class_names = ("a", "b", "c")
    images = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(images)
    pooled = model.forward_head(tokens, pre_logits=True)
    assert torch.equal(model.get_classifier()(pooled), model(images))
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(images), pooled)
    for write in (lambda: save_checkpoint(model, tmp_path / "m"), lambda: pack(model, tmp_path / "m.bhv")):
        with pytest.raises(UserError, match=r"has no classifier; reset_classifier\(classes\) gives it one"):
            write()
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 2, 2, 256)
    model.double().reset_classifier(7, "avg")
    assert model.spec.num_classes == 7
    assert getattr(model, "class_names") is None  # noqa: B009
    assert model(images.double()).shape == (2, 7)
    with pytest.raises(UserError, match="goes with num_classes=0"):
        model.reset_classifier(5, "")
    with pytest.raises(UserError, match="global_pool must be avg"):
        model.reset_classifier(5, "max")
    assert bhvit.BHViT is BHViT


def test_what_is_refused_leaves_the_model_as_it_was() -> None:
    stages = (StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),) * 2
    settings: dict[str, Any] = {"num_classes": 3, "img_size": 16, "stages": stages}
    known = Calibration(temperature=2.0, score="energy", quantiles=tuple(map(float, range(101))))
    for task in ("classify", "segment"):
        model = create_model("bhvit_scene", task=task, patch=4, **settings)
        model.class_names, model.calibration = ("a", "b", "c"), known
        spec, head = model.spec, model.head.linear
        with pytest.raises(UserError, match="num_classes must be 1 to"):
            model.reset_classifier(-1)
        with pytest.raises(UserError):
            model.reset_classifier(0, "max")
        if task == "segment":
            with pytest.raises(UserError, match="the decoder of a segmentation reads all stages"):
                model.prune_intermediate_layers([0])
        assert (model.spec, model.head.linear) == (spec, head)
        assert (model.class_names, model.calibration) == (("a", "b", "c"), known)
        assert len(model.stages) == 2
        model.reset_classifier(5)
        assert model.num_classes == 5
        assert getattr(model, "class_names") is None  # noqa: B009
        assert getattr(model, "calibration") is None  # noqa: B009


def test_transforms_that_timm_resolves_fit_the_size_of_the_model() -> None:
    model = timm.create_model("bhvit_nano", img_size=(64, 96))
    assert resolve_model_data_config(model)["input_size"] == (3, 64, 96)
