"""No tensor of a wrong shape, type, layout or device reaches a kernel, and the stub says what kernels take.

Every function of the module is called once as it should be (`CALLS`), then with each tensor of that call made wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bhvit
from bhvit.format.arithmetic import TAPS
from bhvit.models.fused import kernels as native

pytestmark = pytest.mark.skipif(not native.KERNELS, reason="built without the kernels of a training step")

Arguments = dict[str, Any]
C, K, OUT = 64, 96, 32  # channels, inputs and outputs of a product
ROWS = (2, 3)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def _words(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.int32).view(shape)


def _vectors(names: str, count: int = C) -> Arguments:
    return {name: _floats(count) for name in names.split()}


def _grids(names: str, count: int = C) -> Arguments:
    return {name: _floats(*ROWS, count) for name in names.split()}


STATISTICS: Arguments = {"epsilon": 1e-5, "momentum": 0.1}
TRACKED = "mean inverse running_mean running_variance"
NORM = "mean inverse weight bias"
UNIT: Arguments = {
    **_grids("h"),
    **_grids("residual", 32),
    **_vectors(f"{NORM} shift_in slope shift_out"),
    "binary": True,
}
PLAIN_UNIT: Arguments = {**UNIT, "scale": None, "shift": None, "learnable_bias": None}
SCALED_UNIT: Arguments = {**UNIT, **_vectors("scale shift"), "learnable_bias": None}
HIDDEN_UNIT: Arguments = {**UNIT, "scale": None, "shift": None, **_vectors("learnable_bias")}
UNIT_GRADIENTS: Arguments = {
    **_grids("h_grad"),
    **_grids("residual_grad", 32),
    **_vectors("weight_grad bias_grad shift_in_grad slope_grad shift_out_grad"),
    "scale_grad": None,
    "shift_grad": None,
    "learnable_bias_grad": None,
    "out_grad": None,
    "signs_grad": None,
    "means_grad": None,
}
BRANCHES: Arguments = {
    "ys": [_floats(*ROWS, C), _floats(*ROWS, C)],
    "inputs": [_floats(C), _floats(C)],
    "slopes": [_floats(C), _floats(C)],
}
BRANCH_GRADIENTS: Arguments = {f"{name}_grad": [t.clone() for t in tensors] for name, tensors in BRANCHES.items()}
IMAGE = (2, 3, 4, C)
CONV: Arguments = {"x": _floats(*IMAGE), "weights": _floats(4, 9, 16, 16), "dilation": 3, "out": _floats(*IMAGE)}
CONV_WEIGHTS: Arguments = {
    "x": _floats(*IMAGE),
    "dilation": 3,
    "out_grad": _floats(*IMAGE),
    "weights_grad": _floats(4, 9, 16, 16),
}
CROSS: Arguments = {"x": _floats(*IMAGE), "taps": _floats(9, C), "offsets": TAPS, "cyclic": True}
HEADS: Arguments = {
    "q": _floats(2, 3, C),
    "k": _floats(2, 5, C),
    "v": _floats(2, 5, C),
    "step": torch.ones(4),
    "offset": _floats(4),
}

CALLS: dict[str, list[Arguments]] = {
    "statistics": [{**_grids("x"), **STATISTICS, **_vectors(TRACKED)}],
    "normalise": [{**_grids("x out"), **_vectors(NORM)}],
    "normalise_backward": [{**_grids("x out_grad x_grad"), **_vectors(f"{NORM} weight_grad bias_grad")}],
    "signs": [{**_grids("x out"), **_vectors("learnable_bias"), "binary": True}],
    "signs_backward": [
        {**_grids("x out_grad x_grad"), **_vectors("learnable_bias learnable_bias_grad"), "binary": True, "add": add}
        for add in (False, True)
    ],
    "pack_bits": [{**_grids("x"), **_vectors("learnable_bias"), "bits": _words(*ROWS, 2)}],
    "unpack_bits": [{"bits": _words(*ROWS, 2), **_grids("out")}],
    "binarise": [
        {"latent": _floats(OUT, 4, 3, 3), "out": _floats(OUT, 4, 3, 3), "centre": centre}
        for centre in (None, _floats(OUT))
    ],
    "binarise_backward": [
        {"latent": _floats(OUT, 40), "out_grad": _floats(OUT, 40), "latent_grad": _floats(OUT, 40), "centre": centre}
        for centre in (None, _floats(OUT))
    ],
    "weight_bits": [
        {"latent": _floats(OUT, K), "bits": _words(OUT, 3), "scale": _floats(OUT), "centre": centre}
        for centre in (None, _floats(OUT))
    ],
    "binary_linear": [
        {
            "bits": _words(*ROWS, 3),
            "weights": _words(OUT, 3),
            **_grids("out", OUT),
            **STATISTICS,
            **_vectors(f"scale {TRACKED}", OUT),
        }
    ],
    "bit_columns": [{"bits": _words(5, 7, 2), "columns": _words(2, C)}],
    "sign_products": [
        {"a": _floats(6, OUT), "transposed": False, "scale": _floats(OUT), "columns": _words(1, C), **_grids("out")},
        {"a": _floats(40, 6), "transposed": True, "scale": None, "columns": _words(2, C), **_grids("out")},
    ],
    "unit": [
        {**PLAIN_UNIT, **_grids("out")},
        {**SCALED_UNIT, **_grids("out")},
        {**HIDDEN_UNIT, **_grids("signs"), **_grids("means", 32)},
        {**HIDDEN_UNIT, "signs": _words(*ROWS, 2), **_grids("means", 32)},
    ],
    "unit_backward": [
        {**UNIT_GRADIENTS, **PLAIN_UNIT, **_grids("out_grad")},
        {**UNIT_GRADIENTS, **SCALED_UNIT, **_grids("out_grad"), **_vectors("scale_grad shift_grad")},
        {
            **UNIT_GRADIENTS,
            **HIDDEN_UNIT,
            **_grids("signs_grad"),
            **_grids("means_grad", 32),
            **_vectors("learnable_bias_grad"),
        },
    ],
    "branches": [{**BRANCHES, **_vectors("shift"), **_grids("out")}],
    "branches_backward": [{**BRANCHES, **BRANCH_GRADIENTS, **_vectors("shift_grad"), **_grids("out_grad")}],
    "conv": [{**CONV, "add": False}],
    "conv_weights": [CONV_WEIGHTS],
    "binary_conv": [CONV],
    "sign_conv": [{**CONV, "add": True}],
    "sign_conv_weights": [CONV_WEIGHTS],
    "cross": [{**CROSS, **_vectors("shift"), "base": _floats(*IMAGE), "out": _floats(*IMAGE)}],
    "cross_backward": [
        {
            **CROSS,
            **_vectors("shift_grad"),
            "out_grad": _floats(*IMAGE),
            "x_grad": _floats(*IMAGE),
            "taps_grad": _floats(9, C),
        }
    ],
    "attention": [{**HEADS, "out": _floats(2, 3, C)}],
    "attention_backward": [
        {**HEADS, "out_grad": _floats(2, 3, C), **{f"{name}_grad": tensor.clone() for name, tensor in HEADS.items()}}
    ],
}
NEEDS_PRODUCTS = {"sign_products", "sign_conv", "sign_conv_weights"}


def _functions(kernels: Any) -> set[str]:
    return {name for name in dir(kernels) if not name.startswith("_") and callable(getattr(kernels, name))}


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """A copy of a call's argument, floats of this type."""
    if isinstance(value, list):
        return [_converted(each, dtype) for each in value]
    if isinstance(value, Tensor):
        return value.to(dtype, copy=True) if value.is_floating_point() else value.clone()
    return value


def _arguments(call: Arguments, dtype: torch.dtype) -> Arguments:
    return {"threads": 1, **{name: _converted(value, dtype) for name, value in call.items()}}


def _wrong_types(x: Tensor) -> Iterator[Tensor]:
    yield from (x.to(dtype) for dtype in (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64))


def _wrong_shapes(x: Tensor) -> Iterator[Tensor]:
    """The same with one element more or fewer in each dimension, and with another dimension."""
    yield x.unsqueeze(0)
    yield x.flatten() if x.ndim > 1 else x.view(1, -1)
    yield x.new_zeros(())
    for axis in range(x.ndim):
        for change in (-1, 1):
            shape = list(x.shape)
            shape[axis] += change
            yield x.new_ones(shape)


def _wrong_layouts(x: Tensor) -> Iterator[Tensor]:
    """Of the same shape and type, but not in one piece."""
    yield x.repeat_interleave(2, dim=-1)[..., ::2]
    if x.ndim > 1 and x.shape[0] > 1:
        yield x.transpose(0, -1).contiguous().transpose(0, -1)
        yield torch.cat([x, x], dim=-1)[..., : x.shape[-1]]
    yield x[:1].expand(x.shape)


def _wrong_devices(x: Tensor) -> Iterator[Tensor]:
    yield x.to("meta")


FAULTS: dict[str, Callable[[Tensor], Iterator[Tensor]]] = {
    "type": _wrong_types,
    "shape": _wrong_shapes,
    "layout": _wrong_layouts,
    "device": _wrong_devices,
}


def _words_of_rows(rows: int) -> int:
    return (rows + 31) // 32


# Shapes that are wrong for most and fit here: nothing else in the call has as many rows.
ALSO_FIT: dict[tuple[str, str], Callable[[torch.Size], bool]] = {
    ("statistics", "x"): lambda shape: shape[-1:] == (C,) and shape[:-1].numel() > 1,
    ("bit_columns", "bits"): lambda shape: shape[-1:] == (2,) and _words_of_rows(shape[:-1].numel()) == 2,
    ("sign_products", "out"): lambda shape: shape[-1:] == (C,) and shape[:-1].numel() == 6,
    ("sign_products", "a"): lambda shape: len(shape) == 2 and shape[1] == 6 and _words_of_rows(shape[0]) == 2,
}


def _with_each_tensor(
    arguments: Arguments, fault: Callable[[Tensor], Iterator[Tensor]]
) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one of them made wrong, and its name, for each tensor and each way of the fault."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield from ((name, {**arguments, name: wrong}) for wrong in fault(value) if not _same(wrong, value))
        elif isinstance(value, list):
            for index, each in enumerate(value):
                for wrong in fault(each):
                    if not _same(wrong, each):
                        yield name, {**arguments, name: [*value[:index], wrong, *value[index + 1 :]]}
            yield name, {**arguments, name: value[:-1]}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and a.is_contiguous()


@pytest.mark.parametrize("isa", list(native.BY_ISA))
def test_every_function_has_a_call_here(isa: str) -> None:
    for kernels in native.BY_ISA[isa].values():
        assert _functions(kernels) == set(CALLS)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("isa", list(native.BY_ISA))
@pytest.mark.parametrize("name", list(CALLS))
def test_tensors_that_fit_are_taken(name: str, isa: str, dtype: str) -> None:
    kernels: Any = native.BY_ISA[isa][DTYPES[dtype]]
    for call in CALLS[name]:
        arguments = _arguments(call, DTYPES[dtype])
        if name in NEEDS_PRODUCTS and not kernels.multiplies_signs:
            with pytest.raises(ValueError, match="see multiplies_signs"):
                getattr(kernels, name)(**arguments)
        else:
            getattr(kernels, name)(**arguments)


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("name", list(CALLS))
def test_tensors_that_do_not_fit_are_refused(name: str, dtype: str, fault: str) -> None:
    kernels: Any = native.KERNELS[DTYPES[dtype]]
    tried = 0
    for call in CALLS[name]:
        arguments = _arguments(call, DTYPES[dtype])
        for changed, wrong in _with_each_tensor(arguments, FAULTS[fault]):
            also_fits = ALSO_FIT.get((name, changed))
            if fault == "shape" and also_fits and also_fits(wrong[changed].shape):
                continue
            with pytest.raises((TypeError, ValueError)):
                getattr(kernels, name)(**wrong)
            tried += 1
    assert tried >= len(CALLS[name])


@pytest.mark.parametrize("name", list(CALLS))
def test_arguments_are_named_and_complete(name: str) -> None:
    function = getattr(native.KERNELS[torch.float32], name)
    arguments = _arguments(CALLS[name][0], torch.float32)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        function(*arguments.values())
    for missing in arguments:
        if missing not in ("out", "signs", "means") or name != "unit":
            with pytest.raises(TypeError, match="incompatible function arguments"):
                function(**{key: value for key, value in arguments.items() if key != missing})
    for wrong in (None, 3, "x", [1.0], object()):
        with pytest.raises((TypeError, ValueError)):
            function(**{**arguments, next(iter(CALLS[name][0])): wrong})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("signs", {"threads": 0}, "threads must be 1 to 4096, not 0"),
        ("signs", {"learnable_bias": _floats(1)}, r"learnable_bias has shape \(1,\), not \(64,\)"),
        ("signs", {"learnable_bias": _floats(C).double()}, "learnable_bias is not of dtype float32"),
        ("signs", {"out": _floats(*ROWS, 2 * C)[..., ::2]}, "out is not contiguous"),
        ("signs", {"x": _floats(*ROWS, C).to("meta")}, "x has no memory that native code can read"),
        ("statistics", {"x": _floats(1, C)}, "a variance needs two rows or more"),
        ("pack_bits", {"x": _floats(*ROWS, 40)}, "40 channels do not fill words of 32 bits"),
        ("binary_linear", {"scale": _floats(24)}, r"scale has shape \(24,\), not a multiple of 16"),
        ("unit", {"residual": _floats(*ROWS, 48)}, r"a residual of shape \(2, 3, 48\) cannot be tiled to \(2, 3, 64\)"),
        ("unit", {"scale": _floats(C)}, "scale and shift are given both or neither"),
        ("unit", {"signs": _floats(*ROWS, C)}, "one without it out"),
        ("unit_backward", {"learnable_bias_grad": _floats(C)}, "learnable_bias_grad goes with the tensor it is of"),
        ("branches", {"ys": []}, "lists of branches differ in length"),
        ("branches", {"ys": [], "inputs": [], "slopes": []}, "1 to 64 branches"),
        ("conv", {"weights": _floats(3, 9, 16, 16)}, "64 channels are not 3 groups of multiples of 16"),
        ("conv", {"weights": _floats(8, 9, 8, 8)}, "64 channels are not 8 groups of multiples of 16"),
        ("conv", {"dilation": 0}, "dilation must be 1 to"),
        ("cross", {"offsets": [*TAPS[:8], (0, 1 << 24)]}, "offsets are too far"),
        ("attention", {"step": torch.ones(3)}, r"keys of shape \(2, 5, 64\) do not go with 3 heads"),
        ("attention", {"k": _floats(3, 5, C)}, "queries of shape"),
        ("attention", {"v": _floats(2, 3, C)}, r"v has shape \(2, 3, 64\), not \(2, 5, 64\)"),
    ],
)
def test_messages_name_the_argument(name: str, change: Arguments, message: str) -> None:
    arguments = {**_arguments(CALLS[name][0], torch.float32), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(native.KERNELS[torch.float32], name)(**arguments)


def test_a_unit_has_channels() -> None:
    arguments = {**_arguments(CALLS["unit"][2], torch.float32), **_vectors("learnable_bias", 0), **_vectors(NORM, 0)}
    arguments |= {**_vectors("shift_in slope shift_out", 0), **_grids("h signs", 0), **_grids("residual means", 32)}
    with pytest.raises(ValueError, match="cannot be tiled"):
        native.KERNELS[torch.float32].unit(**arguments)


def test_channels_of_hidden_means_stay_in_one_tile() -> None:
    arguments = {
        **_arguments(CALLS["unit"][2], torch.float32),
        **_vectors("learnable_bias", 192),
        **_vectors(NORM, 192),
    }
    arguments |= {**_vectors("shift_in slope shift_out", 192), **_grids("h signs", 192), **_grids("residual means", 32)}
    with pytest.raises(ValueError, match="cannot be tiled"):  # means of 6 channels, and 6 does not divide 32
        native.KERNELS[torch.float32].unit(**arguments)


def _stub() -> ast.Module:
    return ast.parse(Path(bhvit.__file__).with_name("_training.pyi").read_text(encoding="utf-8"))


def _stub_signatures() -> dict[str, str]:
    (kernels,) = (node for node in _stub().body if isinstance(node, ast.ClassDef) and node.name == "Kernels")
    return {
        node.name: f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns or ast.Constant(None))}"
        for node in kernels.body
        if isinstance(node, ast.FunctionDef)
    }


def _signature(function: Any) -> str:
    """What nanobind says of a function, in the stub's words."""
    ((text, _, defaults),) = function.__nb_signature__
    for index, default in enumerate(defaults or ()):
        text = text.replace(f"\\{index}", repr(default))
    text = text.replace("torch.Tensor", "Tensor").replace("collections.abc.Sequence", "Sequence")
    (node,) = ast.parse(f"{text}: ...").body
    assert isinstance(node, ast.FunctionDef)
    assert node.returns is not None
    return f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


@pytest.mark.parametrize("isa", list(native.BY_ISA))
def test_the_stub_has_every_function_and_parameter(isa: str) -> None:
    stub = _stub_signatures()
    for kernels in native.BY_ISA[isa].values():
        assert {name: _signature(getattr(kernels, name)) for name in _functions(kernels)} == stub


def test_the_stub_has_every_other_name() -> None:
    from bhvit import _training

    top = {
        node.target.id for node in _stub().body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    public = {name for name in vars(_training) if not name.startswith("_")}
    assert public - set(_training.isas) == top
    for isa in _training.isas.values():
        assert {name for name in vars(isa) if not name.startswith("_")} == set(DTYPES)
        for kernels in (isa.float32, isa.float64):
            assert {name for name in vars(kernels) if not name.startswith("_")} == {*CALLS, "multiplies_signs"}
