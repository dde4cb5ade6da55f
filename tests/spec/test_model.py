import dataclasses
import json
from typing import Any

import pytest

from bhvit.errors import UserError
from bhvit.format.program import check_graph, program
from bhvit.models import list_models, model_spec
from bhvit.spec.model import ModelSpec, StageSpec, nearest_divisor


@pytest.mark.parametrize("name", list_models())
def test_every_model_round_trips_through_json(name: str) -> None:
    spec = model_spec(name, num_classes=7)
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("bhvit")])
def test_the_ops_of_every_model_chain(name: str) -> None:
    ops = program(model_spec(name, num_classes=7))
    check_graph(ops)
    assert ops[-1].output() == (1, 1, 7)


@pytest.mark.parametrize("size", [32, 64, 96, 160, 192, 224, 256, 320, 384, (224, 320), (96, 160), (32, 384)])
def test_sizes_that_the_published_code_cannot_take_have_windows_that_fit(size: int | tuple[int, int]) -> None:
    spec = model_spec("bhvit_small", img_size=size)
    for stage in (2, 3):
        height, width = spec.grid(stage)
        rows, columns = spec.window(stage)
        assert height % rows == 0
        assert width % columns == 0
    check_graph(program(spec))


def test_windows_are_the_published_ones_at_224_and_nearest_to_7_elsewhere() -> None:
    assert [model_spec("bhvit_tiny").window(stage) for stage in (2, 3)] == [(7, 7), (7, 7)]
    assert [nearest_divisor(n) for n in (1, 2, 3, 4, 6, 10, 12, 16, 17, 20, 24)] == [1, 2, 3, 4, 6, 5, 6, 8, 17, 5, 8]


@pytest.mark.parametrize(
    ("size", "nearest"), [(100, "96x96 or 128x128"), ((224, 230), "224x224 or 224x256"), (8, "32x32"), (0, "32x32")]
)
def test_a_size_that_cannot_work_is_refused_with_the_nearest_that_can(size: int, nearest: str) -> None:
    with pytest.raises(UserError, match=f"multiples of 32; nearest that can work: {nearest}$"):
        model_spec("bhvit_tiny", img_size=size)


def test_a_size_beyond_any_machine_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="is too large for bhvit_nano: stage 0 would have 250000x250000 tokens"):
        model_spec("bhvit_nano", img_size=1000000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": {0: {"depth": 1000000000}}}, "depth must be 1 to 256, not 1000000000"),
        ({"stages": {0: {"depth": 200}, 1: {"depth": 200}}}, "a model has at most 256 blocks, not 412"),
        ({"stages": {0: {"hidden": 64 * 5000}}}, "hidden must be at most 65536, not 320000"),
        ({"stages": {2: {"window": 0}}}, r"window edges must be 1 to 64 tokens, not \(0, 0\)"),
        ({"stages": {2: {"window": -7}}}, r"window edges must be 1 to 64 tokens, not \(-7, -7\)"),
        ({"shifts": (3, 3)}, r"shifts may hold 3 and 5, once each, not \(3, 3\)"),
        ({"num_classes": "ten"}, "num_classes must be a whole number, not 'ten'"),
        ({"num_classes": True}, "num_classes must be a whole number, not True"),
        ({"stages": [1]}, r"stages must be .* not \[1\]"),
        ({"regularisation": 0.1}, "regularisation is a setting of training"),
        ({"num_classes": 10**9}, "num_classes must be 1 to 1048576, not 1000000000"),
        ({"img_size": 224.0}, "img_size must be a size .*, not 224.0"),
        ({"img_size": "large"}, "img_size must be a size .*, not 'large'"),
        ({"img_size": (224, 224, 3)}, r"img_size must be a size .*, not \(224, 224, 3\)"),
    ],
)
def test_a_model_that_cannot_be_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_spec("bhvit_small", **settings)


def test_a_decoder_too_large_for_its_grid_is_refused() -> None:
    stage = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
    settings: dict[str, Any] = {"num_classes": 2, "img_size": 2048, "stages": (stage,), "task": "segment"}
    message = "decoder_channels 4096 are too many for the 262144 tokens of stage 0: at most 256"
    for blocks in (0, 1):
        with pytest.raises(UserError, match=message):
            model_spec("bhvit_scene", **settings, decoder_blocks=blocks, decoder_channels=4096)
    assert model_spec("bhvit_scene", **settings, decoder_blocks=0, decoder_channels=256).decoder_channels == 256


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="no model is called 'bhvit_smal'; did you mean bhvit_small"):
        model_spec("bhvit_smal")


def test_a_window_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(UserError, match="window 5x5 does not divide the 14x14 tokens of stage 2"):
        model_spec("bhvit_tiny", window=5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_classes", 0, "num_classes must be 1 to 1048576, not 0"),
        ("in_chans", 0, "in_chans must be 1 to 64, not 0"),
        ("patch", 0, "patch must be 1 to 64 pixels, not 0"),
        ("stem_kernel", 3, r"stem_kernel must be patch \(4\) plus an even number, at most 64, not 3"),
        ("stem_kernel", 5, r"stem_kernel must be patch \(4\) plus an even number, at most 64, not 5"),
        ("stem_kernel", 66, r"stem_kernel must be patch \(4\) plus an even number, at most 64, not 66"),
        ("downsample", "none", "downsample must be binary or float, not 'none'"),
        ("shifts", (4,), r"shifts may hold 3 and 5, once each, not \(4,\)"),
        ("stages", (), "a model needs at least one stage"),
    ],
)
def test_impossible_settings_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(model_spec("bhvit_nano"), **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 0, "depth must be 1 to 256, not 0"),
        ("channels", 40, "channels must be a positive multiple of 32, not 40"),
        ("hidden", 100, r"hidden must be a multiple of channels \(128\), not 100"),
        ("mixer", "pool", "mixer must be conv or attention .*, not 'pool'"),
        ("heads", 3, "channels per head must be a multiple of 32: 128 channels, 3 heads"),
        ("hidden", 3 * 128, r"hidden/channels \(3\) must divide channels \(128\)"),
    ],
)
def test_impossible_stages_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(model_spec("bhvit_nano").stages[1], **{field: value})


def test_the_stem_sees_its_patch_unless_told_otherwise() -> None:
    spec = model_spec("bhvit_nano")
    assert "stem_kernel" not in json.loads(spec.to_json())
    assert ModelSpec.from_json(spec.to_json()) == spec
    wider = model_spec("bhvit_nano", stem_kernel=8)
    assert (spec.kernel, wider.kernel, wider.grid(0)) == (4, 8, spec.grid(0))
    assert ModelSpec.from_json(wider.to_json()) == wider


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"name": 1}', '{"stages": 3}', '{"stages": [{"x": 1}]}'])
def test_a_damaged_description_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="the model description is damaged"):
        ModelSpec.from_json(text)


def test_an_unknown_field_is_refused() -> None:
    fields = json.loads(model_spec("bhvit_nano").to_json())
    fields["colour"] = "blue"
    with pytest.raises(UserError, match="colour"):
        ModelSpec.from_json(json.dumps(fields))
