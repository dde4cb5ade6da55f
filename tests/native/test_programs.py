"""Whole programs are bit-identical to the NumPy reference, on every instruction set and any threads."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from bhvit import _native, format, op_rules
from bhvit.runtime import reference
from bhvit.spec import MAX_GRID_FLOATS, ModelSpec, StageSpec
from random_model import bhvit, random_images, random_model

ISAS = _native.available_isas()


def _stage(mixer: str, channels: int, r: int, **changes: Any) -> StageSpec:
    return StageSpec(depth=1, channels=channels, hidden=channels * r, mixer=mixer, **changes)  # type: ignore[arg-type]


SPECS = [
    bhvit("published-96x64", (1, 1, 1, 1), (96, 64), num_classes=10),
    bhvit("published-float-downsampling", (1, 1, 2, 1), (64, 96), num_classes=33, downsample="float"),
    ModelSpec(name="one-channel", img_size=(28, 28), in_chans=1, patch=2, num_classes=3,
              stages=(_stage("conv", 64, 2), _stage("attention", 64, 4, heads=2, window=(7, 7)))),
    ModelSpec(name="odd-windows", img_size=(30, 45), in_chans=5, patch=3, num_classes=17,
              stages=(_stage("attention", 32, 1, heads=1, window=(5, 3)),)),
    ModelSpec(name="tall-windows", img_size=(8, 24), patch=1, num_classes=1,
              stages=(_stage("attention", 64, 2, window=(2, 12)), _stage("attention", 128, 2, heads=4, window=(4, 1)))),
    ModelSpec(name="three-groups-of-hidden", img_size=(12, 20), patch=4, num_classes=16,
              stages=(_stage("conv", 192, 3), )),
    ModelSpec(name="narrow-shares", img_size=(12, 12), patch=2, num_classes=5,
              stages=(_stage("conv", 64, 16), _stage("attention", 64, 32, heads=2, window=(3, 3)))),
    ModelSpec(name="six-hidden-groups", img_size=(7, 5), patch=1, num_classes=15,
              stages=(_stage("attention", 96, 6, heads=3, window=(7, 5)), )),
    ModelSpec(name="one-token", img_size=(4, 4), patch=4, num_classes=2,
              stages=(_stage("conv", 64, 1), )),
    ModelSpec(name="one-bit-pooled", img_size=(24, 40), patch=2, num_classes=7, attention="one_bit", branches="pool",
              stem_activation="none",
              stages=(_stage("pooled_attention", 64, 4, key_pool=4), _stage("pooled_attention", 128, 2, heads=2))),
    ModelSpec(name="layer-gsb", img_size=(24, 16), patch=2, num_classes=7, attention="gsb", norm="layer",
              stages=(_stage("conv", 128, 8), _stage("attention", 256, 2, heads=4, window=(3, 2)))),
    ModelSpec(name="numbers", img_size=(12, 20), patch=2, num_classes=7, norm="layer", downsample="float",
              stages=(_stage("conv", 64, 4, activation_bits=32), _stage("attention", 64, 2, activation_bits=32),
                      )),
    ModelSpec(name="float-weights-odd", img_size=(28, 28), patch=4, num_classes=7, branches="pool", shifts=(5, ),
              stages=(_stage("conv", 192, 6, weight_bits=32), )),
    ModelSpec(name="all-numbers-pooled", img_size=(18, 12), patch=1, num_classes=7,
              stages=(_stage("pooled_attention", 96, 3, heads=3, key_pool=3, weight_bits=32, activation_bits=32), )),
    ModelSpec(name="pooling", img_size=(10, 2), patch=2, num_classes=7, norm="layer",
              stages=(_stage("pooling", 96, 1), )),
]  # fmt: skip


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_op_equals_the_reference(spec: ModelSpec, half: bool) -> None:
    model = random_model(spec, seed=len(spec.name), half=half)
    image = random_images(spec, 1)[0]
    expected = list(reference.trace(model, image))
    assert all(np.isfinite(x).all() for _, x in expected)
    data = format.to_bytes(model)
    for isa in ISAS:
        for threads in (1, 2, 3):
            for (name, x), (native_name, native_x) in zip(
                expected, _native.Program(data, threads, isa).trace(image), strict=True
            ):
                assert name == native_name
                np.testing.assert_array_equal(native_x, x, err_msg=f"{name}, {isa}, {threads} threads")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", range(10))
def test_batches_of_any_size(isa: str, batch: int) -> None:
    spec = SPECS[2]
    model = random_model(spec, seed=batch)
    images = random_images(spec, batch, seed=batch)
    program = _native.Program(format.to_bytes(model), 2, isa)
    logits = program.run(images)
    assert logits.shape == (batch, spec.num_classes)
    np.testing.assert_array_equal(logits, reference.run(model, images))
    np.testing.assert_array_equal(program.run(images), logits)


def test_one_program_in_several_threads() -> None:
    spec = SPECS[2]
    program = _native.Program(format.to_bytes(random_model(spec)), 2)
    images = random_images(spec, 8)
    expected = program.run(images)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(program.run(images[index : index + 1])[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_profile_names_every_op() -> None:
    spec = SPECS[0]
    model = random_model(spec)
    timings = _native.Program(format.to_bytes(model)).profile(random_images(spec, 1)[0], 3)
    assert [(name, kind) for name, kind, _ in timings] == [(op.name, op.kind) for op in model.ops]
    assert all(nanoseconds > 0 for *_, nanoseconds in timings)


def test_schema_mirrors_the_rules() -> None:
    schema = json.loads(_native.schema())
    assert schema["limits"] == dict(op_rules.LIMITS)
    assert schema["options"] == {name: list(values) for name, values in op_rules.OPTIONS.items()}
    assert (schema["max_ops"], schema["max_grid_floats"]) == (op_rules.MAX_OPS, MAX_GRID_FLOATS)
    assert schema["ops"] == {
        kind: {
            "attributes": list(rule.attributes),
            "options": list(rule.options),
            "tensors": {
                name: [list(tensor.shape), tensor.weights, tensor.when] for name, tensor in rule.tensors.items()
            },
        }
        for kind, rule in op_rules.OPS.items()
    }


def test_instruction_sets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = format.to_bytes(random_model(SPECS[-1]))
    assert ISAS[-1] == "scalar"
    for isa in ISAS:
        assert _native.Program(data, 1, isa).isa == isa
        monkeypatch.setenv("BHVIT_ISA", isa)
        assert _native.Program(data).isa == isa
    monkeypatch.setenv("BHVIT_ISA", "mmx")
    with pytest.raises(ValueError, match=r"'mmx' \(from BHVIT_ISA\).* scalar"):
        _native.Program(data)
    with pytest.raises(ValueError, match=r"'sse9' is not one that this machine can run: auto, .*scalar"):
        _native.Program(data, 1, "sse9")
    assert _native.Program(data, 1, "scalar").isa == "scalar"
