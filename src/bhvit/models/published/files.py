"""Files of published weights, read without executing what a pickle may ask for."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ...errors import UserError
from ...files import check_regular
from .pickles import PICKLES, check_work

_WRAPPERS = ("model", "model_ema", "state_dict", "state_dict_ema", "module")
_DEEPEST = 8
"""Wrappers inside each other that are looked into; a pickle may also hold itself."""


def read_state(path: str | Path) -> dict[str, Any]:
    """Load a .pth or .safetensors file, executing nothing that a pickle asks for.

    Objects other than tensors and plain containers come as inert stand-ins. Raises UserError if the
    file is absent, cut short or neither.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file of weights in it")
    check_regular(path)
    if not path.is_file():
        raise UserError(f"no file at {path}")
    try:
        if path.suffix.lower() == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        _check_format(path)
        loaded = _load_pickle(path)
    except UserError:
        raise
    except Exception as error:  # a hostile or damaged file can bring any of them about
        raise UserError(f"{path} is not a whole .pth or .safetensors file: {_reason(error)}") from None
    if isinstance(loaded, Mapping):
        return dict(loaded)
    kind = "pickled object" if isinstance(loaded, _Inert) else type(loaded).__name__
    raise UserError(f"{path} holds a {kind}, not a state dict; save model.state_dict()")


def unwrap(state: Any) -> dict[str, Any]:
    """Return the weights in `state`, out of the wrappers that trainers add.

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


def _reason(error: BaseException) -> str:
    """Return the message of a torch error without its advice to load unsafely."""
    if "Weights only load failed" in str(error):
        found = re.search(r"GLOBAL (\S+) (?:was not an allowed global|whose module)", str(error))
        what = f"it asks for {found[1]}" if found else "it holds other objects than tensors"
        return f"{what}; save model.state_dict() alone"
    return (str(error) or type(error).__name__).splitlines()[0]


def _check_format(path: Path) -> None:
    """Raises UserError for formats that torch.load cannot read safely.

    It would run some, never finish reading others, or unpack far more than the file holds.
    """
    if tarfile.is_tarfile(path):  # torch's first format; a member of it may be a pipe that never ends
        raise UserError(f"{path} is in the tar format of PyTorch before 0.1.10; load it there and save it again")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > path.stat().st_size:  # torch stores its records as they are
            raise UserError(f"{path} unpacks to {size} bytes, more than it has; save it with torch.save as it is")
    try:
        reader: Any = torch._C.PyTorchFileReader(str(path))
        records = reader.get_all_records()
    except RuntimeError:  # no archive at all: the older format
        with path.open("rb") as file:
            check_work(file, path.stat().st_size, PICKLES)
        return
    if "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript program, not a state dict; save model.state_dict()")
    data = reader.get_record("data.pkl")
    check_work(io.BytesIO(data), len(data))


class _Inert:
    """Stand-in for a pickled object other than a tensor; it does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _load_pickle(path: Path) -> Any:
    """Load a .pth file with torch's unpickler for weights alone.

    It calls nothing but builders of tensors.

    Other objects that a trainer left in the file (its arguments, its schedule) become `_Inert`, where this PyTorch can
    list them beforehand; the stand-ins are known to it for this file only.
    """
    stand_ins: list[Any] = []
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # since PyTorch 2.6
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except Exception:  # an older format, or damaged: loading it says what is wrong
            names = []
        stand_ins = [(type("Inert", (_Inert,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins) if stand_ins else contextlib.nullcontext():
        return torch.load(path, map_location="cpu", weights_only=True)
