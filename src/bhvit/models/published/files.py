"""Files of published weights, read without executing what a pickle may ask for."""

from __future__ import annotations

import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ...errors import UserError

_WRAPPERS = ("model", "model_ema", "state_dict", "state_dict_ema", "module")
_DEEPEST = 8
"""Wrappers inside each other that are looked into; a pickle may also hold itself."""


def read_state(path: str | Path) -> dict[str, Any]:
    """What a .pth or .safetensors file holds, executing nothing that a pickle may ask for.

    Objects other than tensors and plain containers come as inert stand-ins. Raises UserError if the
    file is absent, cut short or neither.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file of weights in it")
    if not path.is_file():
        raise UserError(f"no file at {path}")
    try:
        if path.suffix.lower() == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        _refuse_programs(path)
        loaded = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_SAFE_PICKLE)
    except UserError:
        raise
    except Exception as error:  # a hostile or damaged file can bring any of them about
        raise UserError(f"{path} is not a whole .pth or .safetensors file: {_first_line(error)}") from None
    if isinstance(loaded, Mapping):
        return dict(loaded)
    kind = "pickled object" if isinstance(loaded, _Inert) else type(loaded).__name__
    raise UserError(f"{path} holds a {kind}, not a state dict; save model.state_dict()")


def unwrap(state: Any) -> dict[str, Any]:
    """The weights in `state`: out of the wrappers that trainers put around them, what lies beside left behind.

    Raises UserError if there are none, or a name is there twice, with and without "module.".
    """
    if not isinstance(state, Mapping):
        raise UserError(f"published weights are a state dict or the path of one, not a {type(state).__name__}")
    for _ in range(_DEEPEST):
        if any(_bare(name).startswith("vit.") for name in state):
            break
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    weights: dict[str, Any] = {}
    for name, value in state.items():
        if (bare := _bare(name)) in weights:
            raise UserError(f"not published BHViT or BinaryViT weights: {bare} is there twice")
        weights[bare] = value
    if not weights:
        raise UserError("not published BHViT or BinaryViT weights: there is no entry at all")
    if not any(name.startswith("vit.") for name in weights):
        if any(name.startswith("stem.conv.") for name in weights):
            raise UserError(
                "weights of our own, not published ones: load_checkpoint, bhvit eval and pack take their file"
            )
        first = next(iter(weights))
        raise UserError(
            f"not published BHViT or BinaryViT weights: no name begins with 'vit.' (the first is {first!r})"
        )
    return weights


def as_weights(value: Any) -> Tensor | None:
    """`value` as a tensor, or None if it is no plain array of real numbers."""
    try:
        if isinstance(value, np.ndarray):  # torch knows neither other byte orders nor negative strides
            value = np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(value.shape)
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type != "meta"
    if not plain or tensor.is_complex() or not hasattr(value, "dtype"):
        return None
    # One number repeated for ever, as a hostile file may hold, is not stored as many.
    return tensor if tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes() else None


def _bare(name: object) -> str:
    return str(name).removeprefix("module.")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _refuse_programs(path: Path) -> None:
    """Raise UserError for a TorchScript archive, whose own code torch.load would set going."""
    try:
        records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:  # no archive at all: the older format
        return
    if "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript program, not a state dict; save model.state_dict()")


class _Inert:
    """Stands for an object of a pickle that we do not make: it takes anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def add(self, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


_ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
}


class _Unpickler(pickle.Unpickler):
    """Makes tensors and plain containers; everything else becomes `_Inert`, so nothing else is called."""

    def find_class(self, module: str, name: str) -> Any:
        storage = name.endswith("Storage") and "." not in name
        plain = module == "torch" and (storage or isinstance(getattr(torch, name, None), torch.dtype))
        if plain or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return _Inert


_SAFE_PICKLE = types.ModuleType("safe_pickle", "A stand-in for the module `pickle`, as torch.load asks for one.")
_SAFE_PICKLE.Unpickler = _Unpickler  # type: ignore[attr-defined]
_SAFE_PICKLE.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
