"""Published BHViT and BinaryViT weights: read, recognise, load, and give their names back."""

from __future__ import annotations

import collections
import dataclasses
import math
import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import UserError
from ..spec import ModelSpec, StageSpec
from .network import BHViT
from .published_names import is_binaryvit, published_names
from .registry import list_models, model_spec

_WRAPPERS = ("model", "model_ema", "state_dict", "state_dict_ema", "module")
_HEAD_CHANNELS = 64
"""Channels of an attention head in every published size: names and shapes do not tell for GSB and one bit."""
_LISTED = 8
"""Names that an error lists at most."""


def from_published(source: Mapping[str, Any] | str | Path, *, recu: bool = False) -> BHViT:
    """The model in published weights, in evaluation mode, in the weights' own precision.

    `source` is a state dict (tensors or arrays) or the path of a .pth or .safetensors file; the
    architecture is inferred from names and shapes alone. Weights whose names have no quantiser of the
    attention matrix are full precision throughout. `recu`, which leaves no trace in names, matters for
    further training only.

    Raises UserError if the file cannot be read, is of no published architecture, or has names that are
    missing, unknown or of the wrong shape: it lists them.
    """
    state = _unwrap(read_state(source) if isinstance(source, str | Path) else source)
    spec = infer_spec({name: tuple(value.shape) for name, value in state.items()}, recu=recu)
    model = BHViT(spec)
    own = model.state_dict()
    names = published_names(spec)
    problems = [f"{name} is missing" for name in names.values() if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in set(names.values())]
    loaded = {}
    for ours, theirs in names.items():
        if theirs not in state:
            continue
        value = _to_ours(ours, state[theirs], own[ours].shape, spec)
        if value.shape != own[ours].shape:
            problems.append(f"{theirs} has shape {list(state[theirs].shape)}")
        loaded[ours] = value
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise UserError(f"not the weights of a {spec.name}: {'; '.join(problems[:_LISTED])}{more}")
    if any(value.dtype == torch.float64 for value in loaded.values()):
        model.double()
    model.load_state_dict(loaded)
    return model.eval()


def to_published(model: BHViT) -> dict[str, Tensor]:
    """The state dict of `model` under the published names and shapes; `from_published` takes it back."""
    state = model.state_dict()
    return {theirs: _to_theirs(ours, state[ours], model.spec) for ours, theirs in published_names(model.spec).items()}


def infer_spec(shapes: Mapping[str, tuple[int, ...]], *, recu: bool = False) -> ModelSpec:
    """The architecture that published weights of these names and shapes have. Raises UserError if none."""
    try:
        return _infer(shapes, recu)
    except (KeyError, IndexError) as error:
        raise UserError(f"not published BHViT or BinaryViT weights: {error.args[0]} is missing") from None


def _infer(shapes: Mapping[str, tuple[int, ...]], recu: bool) -> ModelSpec:
    binaryvit = any(name.startswith("vit.encoder.layer.") for name in shapes)
    projection = shapes["vit.embeddings.patch_embeddings." + ("projection" if binaryvit else "proj") + ".weight"]
    position = shapes["vit.embeddings.position_embeddings"]
    edge = math.isqrt(position[1]) if binaryvit else position[2]
    stages = _infer_stages(shapes, binaryvit)
    inner = next((name for name in shapes if name.endswith("attention.moveq")), "").removesuffix("moveq")
    norm = "vit.layernorm"
    spec = ModelSpec(
        name="binaryvit" if binaryvit else "bhvit",
        img_size=(edge * projection[2], edge * projection[3]),
        in_chans=projection[1],
        num_classes=shapes["classifier.weight"][0],
        patch=projection[2],
        stages=stages,
        downsample="binary" if "vit.encoder.patch_embed1.move" in shapes else "float",
        shifts=tuple(w for w in (3, 5) if any(name.endswith(f"layerscale_w{w}.alpha") for name in shapes)),
        branches="pool" if binaryvit else "shift",
        norm="batch" if f"{norm}.running_mean" in shapes else "layer",
        attention="gsb" if f"{inner}att_prob_clip2" in shapes else "one_bit" if binaryvit else "decomposition",
        stem_activation="none" if binaryvit else "gelu",
        centre_conv_weights=not binaryvit,
        recu=recu,
    )
    return _named(spec)


def _infer_stages(shapes: Mapping[str, tuple[int, ...]], binaryvit: bool) -> tuple[StageSpec, ...]:
    blocks: list[tuple[int, int, str]] = []
    for kind in ("layer",) if binaryvit else ("layerA", "layerB"):
        number = 0
        while (dense := f"vit.encoder.{kind}.{number}.intermediate.dense.weight") in shapes:
            hidden, channels = shapes[dense]
            blocks.append((hidden, channels, f"vit.encoder.{kind}.{number}"))
            number += 1
    if not blocks:
        raise KeyError("vit.encoder")
    by_width: dict[int, list[tuple[int, str]]] = collections.OrderedDict()
    for hidden, channels, prefix in blocks:
        by_width.setdefault(channels, []).append((hidden, prefix))
    stages = []
    for index, (channels, members) in enumerate(by_width.items()):
        hidden, prefix = members[0]
        inner = f"{prefix}.attention.attention"
        conv = f"{prefix}.GC.move.bias" in shapes
        heads = shapes.get(f"{inner}.att_prob_quantizer.alpha", (max(1, channels // _HEAD_CHANNELS),))[0]
        # Published full-precision models differ from binary ones in what quantises the attention matrix.
        probe = f"{prefix}.attention.attention." if not conv else _first_attention(shapes)
        binary = any(name.startswith(f"{probe}att_prob") for name in shapes)
        stages.append(
            StageSpec(
                depth=len(members),
                channels=channels,
                hidden=hidden,
                mixer="pooled_attention" if binaryvit else "conv" if conv else "attention",
                heads=1 if conv else heads,
                # BinaryViT pools what is more than its last grid but one down to its last: 8, 4, 1, 1.
                key_pool=2 ** (len(by_width) - 1 - index) if f"{inner}.reduction.weight" in shapes else 1,
                weight_bits=1 if binary else 32,
                activation_bits=1 if binary else 32,
            )
        )
    return tuple(stages)


def _first_attention(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return next((name.removesuffix("moveq") for name in shapes if name.endswith("attention.moveq")), "vit.")


def _named(spec: ModelSpec) -> ModelSpec:
    """`spec` under the registered name of its stages, if there is one."""
    for name in list_models():
        known = model_spec(name)
        same = all(getattr(known, field) == getattr(spec, field) for field in ("stages", "downsample", "branches"))
        if same:
            return dataclasses.replace(spec, name=name)
    return spec


def _to_ours(ours: str, value: Any, shape: torch.Size, spec: ModelSpec) -> Tensor:
    """A published tensor as ours: position maps are (H, W, C) grids, per-channel parameters flat."""
    tensor = torch.as_tensor(value)
    if ours == "stem.position" and not is_binaryvit(spec):
        return tensor[0].permute(1, 2, 0).contiguous()
    return tensor.reshape(shape) if tensor.numel() == shape.numel() else tensor


def _to_theirs(ours: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    if ours == "stem.position":
        return tensor.flatten(0, 1)[None] if is_binaryvit(spec) else tensor.permute(2, 0, 1)[None].contiguous()
    if ours.endswith(".position"):
        return tensor.flatten(0, 1)[None]
    if ours.endswith("pool_mix"):
        return tensor.view(1, 1, -1)
    conv_move = ours.endswith("mixer.move.bias") or (ours.startswith("downsamples") and ours.endswith("move.bias"))
    return tensor.view(1, -1, 1, 1) if conv_move or ours.endswith("local_mix") else tensor


def read_state(path: str | Path) -> dict[str, Any]:
    """What a .pth or .safetensors file holds, executing nothing that a pickle may ask for.

    Objects other than tensors and plain containers come as inert stand-ins. Raises UserError if the
    file is absent, cut short or neither.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file at {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_SAFE_PICKLE)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is not a whole .pth or .safetensors file: {_first_line(error)}") from None
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return dict(loaded)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _unwrap(state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in `state`: out of the wrappers that trainers put around them, extras left behind."""
    while not any(str(name).removeprefix("module.").startswith("vit.") for name in state):
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            raise UserError("not published BHViT or BinaryViT weights: no name begins with 'vit.'")
        state = inner
    weights = {str(name).removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in weights.items() if isinstance(value, Tensor | np.ndarray | np.generic)}


class _Inert:
    """Stands for an object of a pickle that we do not make: it takes anything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

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
        plain = module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype))
        if plain or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return _Inert


_SAFE_PICKLE = types.ModuleType("safe_pickle", "A stand-in for the module `pickle`, as torch.load asks for one.")
_SAFE_PICKLE.Unpickler = _Unpickler  # type: ignore[attr-defined]
_SAFE_PICKLE.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
