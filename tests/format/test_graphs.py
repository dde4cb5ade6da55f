"""Programs that are graphs: what both readers take and refuse, and the memory that the engine plans for them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bhvit import FormatError, Session, UserError, _native
from bhvit.format import file as bhv_file
from bhvit.format.op import Op
from bhvit.format.program import check_graph, program
from bhvit.runtime import reference
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_images, random_model
from helpers.sealed_file import sealed

SPEC = ModelSpec(
    name="small-graph",
    img_size=(8, 12),
    patch=2,
    num_classes=3,
    task="segment",
    decoder_blocks=0,
    stages=(
        StageSpec(depth=1, channels=64, hidden=64, mixer="pooling"),
        StageSpec(depth=1, channels=64, hidden=64, mixer="pooling"),
    ),
)
Fields = list[dict[str, Any]]


def _file(change: Callable[[Fields], object], spec: Callable[[dict[str, Any]], object] | None = None) -> bytes:
    """A good file with its program, and its spec, changed."""
    data = bhv_file.to_bytes(random_model(SPEC))
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    fields = json.loads(metadata["program"])
    change(fields)
    metadata["program"] = json.dumps(fields, separators=(",", ":"))
    if spec is not None:
        described = json.loads(metadata["spec"])
        spec(described)
        metadata["spec"] = json.dumps(described)
    metadata["checksum"] = "00000000"
    return sealed(json.dumps(header, separators=(",", ":")), data[8 + length :])


def _op(fields: Fields, name: str) -> dict[str, Any]:
    return next(op for op in fields if op["name"] == name)


def _set(op: str, /, **changes: Any) -> Callable[[Fields], object]:
    return lambda fields: _op(fields, op).update(changes)


def _drop(name: str, key: str) -> Callable[[Fields], object]:
    return lambda fields: _op(fields, name).pop(key)


BAD: dict[str, tuple[Callable[[Fields], object], str]] = {
    "an unknown value": (
        _set("head.sums.0", reads=["head.laterals.0", "nothing"]),
        "head.sums.0: reads nothing, which no op gives",
    ),
    "a value of the empty name": (
        _set("head.sums.0", reads=["head.laterals.0", ""]),
        "head.sums.0: reads , which no op gives",
    ),
    "a read before the write": (
        _set("head.laterals.0", reads=["head.sums.0"]),
        "head.laterals.0: reads head.sums.0 before it is given",
    ),
    "a read of itself": (
        _set("head.sums.0", reads=["head.sums.0", "head.laterals.1"]),
        "head.sums.0: reads head.sums.0 before it is given",
    ),
    "an unused value": (
        _set("head", reads=["stages.0.0.mlp"]),
        "head.sums.0: no op reads what it gives",
    ),
    "a value that only a shape keeps apart": (
        _set("head.sums.0", reads=["head.laterals.0", "head.laterals.0"]),
        "head.sums.0: reads one value twice",
    ),
    "two values in the wrong order": (
        _set("head.sums.0", reads=["head.laterals.1", "head.laterals.0"]),
        "head.sums.0: takes 4x6x64, but head.laterals.1 gives 2x3x64",
    ),
    "one value of two": (
        _set("head.sums.0", reads=["head.laterals.0"]),
        "head.sums.0: reads 1 values, but a upsample_add takes 2",
    ),
    "three values of two": (
        _set("head.sums.0", reads=["head.laterals.0", "head.laterals.1", "stem"]),
        "head.sums.0: reads 3 values, but a upsample_add takes 2",
    ),
    "no values": (
        _set("head.sums.0", reads=[]),
        "head.sums.0: reads 0 values, but a upsample_add takes 2",
    ),
    "values that are left out": (
        _drop("head.sums.0", "reads"),
        "head.sums.0: reads names the 2 values that a upsample_add takes",
    ),
    "a default that is written": (
        _set("head.sums.0", reads=["head.laterals.0"]),
        "head.sums.0: reads 1 values, but a upsample_add takes 2",
    ),
    "the op before, written": (
        _set("stages.0.0.mlp", reads=["stages.0.0.mixer"]),
        "stages.0.0.mlp: reads is left out where it is the op before",
    ),
    "the image of a stem": (
        _set("stem", reads=["image"]),
        "stem: reads 1 values, but a stem takes 0",
    ),
    "nothing of a stem": (
        _set("stem", reads=[]),
        "stem: reads is left out where it is the op before",
    ),
    "reads that are null": (
        _set("head.laterals.0", reads=None),
        "head.laterals.0: reads is not a list of names",
    ),
    "reads that are text": (
        _set("head.laterals.0", reads="stages.0.0.mlp"),
        "head.laterals.0: reads is not a list of names",
    ),
    "reads that are an object": (
        _set("head.laterals.0", reads={"stages.0.0.mlp": 1}),
        "head.laterals.0: reads is not a list of names",
    ),
    "reads that are numbers": (
        _set("head.laterals.0", reads=[2]),
        "head.laterals.0: reads is not a list of names",
    ),
    "a list of lists": (
        _set("head.laterals.0", reads=[["stages.0.0.mlp"]]),
        "head.laterals.0: reads is not a list of names",
    ),
    "many reads": (
        _set("head.laterals.0", reads=["stages.0.0.mlp"] * 60_000),
        "head.laterals.0: reads 60000 values, but a lateral takes 1",
    ),
    "two ops of one name": (
        _set("head.laterals.1", name="stem"),
        "two ops have one name",
    ),
    "two heads": (
        lambda fields: fields.append(dict(fields[-1], name="again")),
        "head: a head comes last and only there",
    ),
    "no head": (
        lambda fields: fields.pop(),
        "head.sums.0: a head comes last and only there",
    ),
    "two stems": (
        lambda fields: fields.insert(1, dict(fields[0], name="again")),
        "again: a stem comes first and only there",
    ),
    "a segmentation of larger images": (
        _set("head", scale=4),
        "head: labels 16x24 pixels, but images have 8x12",
    ),
    "a segmentation of smaller images": (
        _set("head", scale=1),
        "head: labels 4x6 pixels, but images have 8x12",
    ),
    "a scale of zero": (
        _set("head", scale=0),
        "head: scale must be 1 to 64, not 0",
    ),
    "too many classes": (
        _set("head", classes=256),
        "head: a segmentation has at most 255 classes",
    ),
    "an odd grid": (
        _set("head.sums.0", height=3),
        "head.sums.0: height and width must be even",
    ),
    "channels that do not go together": (
        _set("head.laterals.1", out_channels=96),
        "head.laterals.1: out_channels must be a multiple or a divisor of channels",
    ),
    "an option of an op without": (
        _set("head.sums.0", norm="layer"),
        "head.sums.0: upsample_add (has other attributes|takes height, width, channels, not)",
    ),
    "another head": (
        lambda fields: fields[-1].update(op="head") or fields[-1].pop("scale"),
        "the program (has another task than the spec says|is to classify, the spec to segment)",
    ),
}


def test_both_take_a_graph() -> None:
    data = _file(lambda fields: None)
    model = bhv_file.from_bytes(data)
    assert [op.reads for op in model.ops if op.reads] == [
        ("stages.0.0.mlp",),
        ("head.laterals.0", "head.laterals.1"),
    ]
    assert Session(data).spec == SPEC
    image = random_images(SPEC, 1)
    np.testing.assert_array_equal(Session(data)(image), reference.run(model, image))


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_both_refuse(change: Callable[[Fields], object], message: str) -> None:
    data = _file(change)
    for read in (_native.Program, bhv_file.from_bytes, Session):
        with pytest.raises(UserError, match=message) as caught:
            read(data)
        assert len(str(caught.value)) <= 2000
        assert "\n" not in str(caught.value)


def test_both_refuse_another_task_in_the_spec() -> None:
    known, unknown = "is to segment, the spec to classify", "task must be one of classify, segment, not "
    cases: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda spec: spec.update(task="classify"), known),
        (lambda spec: spec.update(task="paint"), f"{unknown}'paint'"),
        (lambda spec: spec.update(task=None), f"{unknown}None"),
        (lambda spec: spec.update(task=1), f"{unknown}1"),
        (lambda spec: spec.pop("task"), known),
    ]
    for change, message in cases:
        data = _file(lambda fields: None, change)
        with pytest.raises(UserError, match=message):
            bhv_file.from_bytes(data)
        for read in (_native.Program, Session):
            with pytest.raises(UserError, match="the program has another task than the spec says"):
                read(data)


def test_a_straight_line_says_nothing_of_what_it_reads() -> None:
    spec = dataclasses.replace(SPEC, task="classify")
    ops = program(spec)
    assert all("reads" not in op.to_json() for op in ops)
    assert check_graph(ops) == [(), *((index,) for index in range(len(ops) - 1))]
    assert "task" not in json.loads(spec.to_json())


def test_reads_go_through_json() -> None:
    for op in program(SPEC):
        assert Op.from_json(op.to_json()) == op


def test_values_that_are_read_later_are_not_changed() -> None:
    """Ops that change what others read later work on a copy: of the stem's value, and of each mixer's."""
    model = random_model(SPEC, seed=5)
    ops = {op.name: op for op in model.ops}
    tensors = {key: value for key, value in model.tensors.items() if not key.startswith("head.laterals.1.")}

    def again(op: Op, name: str, *reads: str) -> Op:
        """The same op with other inputs, and tensors of its own."""
        own = {key: value for key, value in model.tensors.items() if key.startswith(f"{op.name}.")}
        tensors.update({f"{name}{key.removeprefix(op.name)}": value for key, value in own.items()})
        return dataclasses.replace(op, name=name, reads=reads or None)

    total, lateral = ops["head.sums.0"], ops["head.laterals.0"]
    line = [op for op in model.ops if not op.name.startswith("head")]
    graph = dataclasses.replace(
        model,
        ops=(
            *line,
            again(total, "a", "stem", "stages.1.0.mixer"),
            again(ops["stages.0.0.mixer"], "b"),
            again(ops["downsamples.0"], "c"),
            dataclasses.replace(lateral, reads=("stages.0.0.mixer",)),
            again(total, "d", "head.laterals.0", "stages.1.0.mlp"),
            again(total, "e", "d", "c"),
            ops["head"],
        ),
        tensors=tensors,
    )
    data = bhv_file.to_bytes(graph)
    image = random_images(SPEC, 1)[0]
    expected = dict(reference.trace(graph, image))
    for isa in _native.available_isas():
        for threads in (1, 3):
            found = _native.Program(data, threads, isa).trace(image)
            assert [name for name, _ in found] == list(expected)
            for name, value in found:
                np.testing.assert_array_equal(value, expected[name], err_msg=f"{name}, {isa}, {threads} threads")
    dropped = dataclasses.replace(graph, ops=tuple(op for op in graph.ops if op.name != "e"))
    with pytest.raises(FormatError, match="op c: no op reads what it gives"):
        check_graph(dropped.ops)


def test_memory_is_planned_by_lifetimes() -> None:
    """A deep straight line needs no more grids than a short one: two."""

    def needed(depth: int) -> int:
        stage = StageSpec(depth=depth, channels=64, hidden=64, mixer="pooling")
        spec = ModelSpec(name="line", img_size=(64, 64), patch=2, num_classes=3, stages=(stage, stage))
        model = random_model(spec)
        parameters = sum(value.nbytes for value in model.tensors.values())
        return _native.Program(bhv_file.to_bytes(model)).memory_bytes - parameters

    grid = 32 * 32 * 64 * 4
    assert needed(9) - needed(1) < grid


@pytest.mark.parametrize("size", [(240, 320), (512, 1024)])
def test_sizes_that_are_not_square(size: tuple[int, int]) -> None:
    spec = dataclasses.replace(SPEC, img_size=size, patch=8)
    model = random_model(spec, half=True)
    image = random_images(spec, 1)
    program = _native.Program(bhv_file.to_bytes(model))
    logits, labels = program.run(image), program.segment(image)
    assert logits.shape == (1, 3, *size)
    np.testing.assert_array_equal(labels, logits.argmax(axis=1))


def test_values_that_live_at_the_same_time_are_bounded_together() -> None:
    """Of small ops whose values all wait for later ones, a small file must not take memory beyond the bound."""
    model = random_model(SPEC, seed=5)
    ops = {op.name: op for op in model.ops}
    tensors = {key: value for key, value in model.tensors.items() if key.startswith(("stem.", "head."))}

    def again(op: Op, name: str, *reads: str) -> Op:
        own = {key: value for key, value in model.tensors.items() if key.startswith(f"{op.name}.")}
        tensors.update({f"{name}{key.removeprefix(op.name)}": value for key, value in own.items()})
        return dataclasses.replace(op, name=name, reads=reads or None)

    def star(count: int) -> bytes:
        """`count` values of the stem's, then a chain that reads them one by one."""
        waiting = [again(ops["stages.0.0.mixer"], f"a{i}", *(["stem"] if i else [])) for i in range(count)]
        chain = [again(ops["downsamples.0"], "b", "a0")]
        for i in range(1, count):
            chain += [again(ops["head.sums.0"], f"c{i}", f"a{i}", f"d{i - 1}" if i > 1 else "b")]
            chain += [again(ops["downsamples.0"], f"d{i}")] if i < count - 1 else []
        chosen = (ops["stem"], *waiting, *chain, ops["head"])
        kept = {key: value for key, value in tensors.items() if key.rpartition(".")[0] in {op.name for op in chosen}}
        return bhv_file.to_bytes(dataclasses.replace(model, ops=chosen, tensors=kept))

    grid = 4 * 6 * 64 * 4
    few, many = star(10), star(300)
    assert _native.Program(many).memory_bytes - _native.Program(few).memory_bytes > 290 * grid
    with pytest.raises(UserError, match="max_memory"):
        Session(many, max_memory=250 * grid)
