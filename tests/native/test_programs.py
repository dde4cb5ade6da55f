"""Whole programs are bit-identical to the NumPy reference, on every instruction set and any threads."""

from __future__ import annotations

import importlib.util
import itertools
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhvit import _native
from bhvit.format import file as bhv_file
from bhvit.runtime import reference
from bhvit.spec.model import ModelSpec
from helpers.random_model import random_images, random_model
from helpers.small_specs import SPECS

ISAS = _native.available_isas()


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_op_equals_the_reference(spec: ModelSpec, half: bool) -> None:
    model = random_model(spec, seed=len(spec.name), half=half)
    image = random_images(spec, 1)[0]
    expected = list(reference.trace(model, image))
    assert all(np.isfinite(x).all() for _, x in expected)
    data = bhv_file.to_bytes(model)
    for isa in ISAS:
        for threads in (1, 2, 3):
            for (name, x), (native_name, native_x) in zip(
                expected, _native.Program(data, threads, isa).trace(image), strict=True
            ):
                assert name == native_name
                np.testing.assert_array_equal(native_x, x, err_msg=f"{name}, {isa}, {threads} threads")


def test_half_precision_to_its_ends() -> None:
    spec = SPECS[2]
    model = random_model(spec, half=True)
    weight = model.tensors["head.weight"]
    ends = np.array([2**-24, -(2**-24), 2**-14 - 2**-24, 2**-14, -0.0, 65504, -65504], np.float16)  # subnormal ones too
    weight.flat[:: weight.size // 500] = np.resize(ends, len(weight.flat[:: weight.size // 500]))
    images = random_images(spec, 1)
    for isa in ISAS:
        program = _native.Program(bhv_file.to_bytes(model), 1, isa)
        np.testing.assert_array_equal(program.run(images), reference.run(model, images), err_msg=isa)


@pytest.mark.parametrize("order", range(8))
def test_ops_of_a_grid_in_any_order(order: int) -> None:
    # An op may leave the norm of whichever comes next, in memory that both know: no order may overwrite what is in use.
    spec = replace(SPECS[2], stages=tuple(replace(stage, depth=2) for stage in SPECS[2].stages))
    model = random_model(spec, seed=order)
    rng = np.random.default_rng(order)
    ops = []
    for _, group in itertools.groupby(
        model.ops, lambda op: op.name.rsplit(".", 2)[0] if "stages" in op.name else op.name
    ):
        same_grid = list(group)
        ops += [same_grid[i] for i in rng.permutation(len(same_grid))]
    model = replace(model, ops=tuple(ops))
    image = random_images(spec, 1)[0]
    expected = list(reference.trace(model, image))
    for isa in ISAS:
        for threads in (1, 3):
            traced = _native.Program(bhv_file.to_bytes(model), threads, isa).trace(image)
            for (name, x), (native_name, native_x) in zip(expected, traced, strict=True):
                assert name == native_name
                np.testing.assert_array_equal(native_x, x, err_msg=f"{name}, {isa}, {threads} threads")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", range(10))
def test_batches_of_any_size(isa: str, batch: int) -> None:
    spec = SPECS[2]
    model = random_model(spec, seed=batch)
    images = random_images(spec, batch, seed=batch)
    program = _native.Program(bhv_file.to_bytes(model), 2, isa)
    logits = program.run(images)
    assert logits.shape == (batch, spec.num_classes)
    np.testing.assert_array_equal(logits, reference.run(model, images))
    np.testing.assert_array_equal(program.run(images), logits)


def test_one_program_in_several_threads() -> None:
    spec = SPECS[2]
    program = _native.Program(bhv_file.to_bytes(random_model(spec)), 2)
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
    timings = _native.Program(bhv_file.to_bytes(model)).profile(random_images(spec, 1)[0], 3)
    assert [(name, kind) for name, kind, _ in timings] == [(op.name, op.kind) for op in model.ops]
    assert all(nanoseconds > 0 for *_, nanoseconds in timings)


def test_the_generated_rules_are_those_of_the_schema(tmp_path: Path) -> None:
    """`python native/format/generate.py` writes them again."""
    path = Path(__file__).parents[2] / "native" / "format" / "generate.py"
    found = importlib.util.spec_from_file_location("generate", path)
    assert found is not None
    assert found.loader is not None
    generate = importlib.util.module_from_spec(found)
    found.loader.exec_module(generate)
    for file, text in generate.files().items():
        assert file.read_text() == text, f"{file.name} is stale"
    assert generate.missing() == []
    (tmp_path / "kernels" / "ops").mkdir(parents=True)
    (tmp_path / "kernels" / "ops" / "stem.h").touch()
    absent = {path.relative_to(tmp_path).as_posix() for path in generate.missing(tmp_path)}
    assert "engine/steps/stem.cc" in absent
    assert "kernels/ops/stem.h" not in absent


def test_instruction_sets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bhv_file.to_bytes(random_model(SPECS[-1]))
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
