"""Starting from the weights of another model.

Its classes, image size, bits and stride of the stem may be others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed_nhwc

from ..errors import UserError, counted
from ..models import BHViT, load_checkpoint, model_spec
from ..spec.model import DECODER_FIELDS, ModelSpec
from ..spec.overrides import between, fields_of

_FREE = ("name", "img_size", "num_classes", "recu", "float_bits", "patch", "stem_kernel")
_FREE_OF_STAGES = ("window", "weight_bits", "activation_bits")
"""Fields of a spec that change no tensor, or only ones that `start_from` adapts. `patch` and `stem_kernel` are among
them where the stem's kernel keeps its size: then only its stride changes."""


def check_same_architecture(start: ModelSpec, spec: ModelSpec, source: object) -> None:
    """Raises UserError if a model of `spec` cannot start from one of `start`.

    The message names what differs.
    """
    old, new = fields_of(start), fields_of(spec)
    if start.task == "classify" and spec.task == "segment":  # its decoder is new
        old |= {name: new[name] for name in DECODER_FIELDS}
    changed = [
        f"{key} {old.get(key)!r} (now {new.get(key)!r})"
        for key in old | new
        if old.get(key) != new.get(key) and key not in _FREE and key.rpartition(".")[2] not in _FREE_OF_STAGES
    ]
    if start.kernel != spec.kernel:
        changed.append(f"stem_kernel {start.kernel} (now {spec.kernel})")
    if changed:
        raise UserError(f"cannot start from {source}, its model has another {', '.join(changed)}")


def settings_of(checkpoint: str | Path) -> dict[str, Any]:
    """Return the settings of the model in a checkpoint, by name.

    Its size, and what makes it differ from others of its name.

    Raises UserError if it cannot be read.
    """
    spec = load_checkpoint(checkpoint).spec
    usual = model_spec(
        spec.name, num_classes=spec.num_classes, in_chans=spec.in_chans, img_size=spec.img_size, patch=spec.patch
    )
    size = {"img_size": list(spec.img_size), "channels": spec.in_chans, "patch": spec.patch}
    return {"model": spec.name, **size, **between(usual, spec)}


def start_from(model: BHViT, start: BHViT, source: object) -> list[str]:
    """Give `model` the weights of `start`, in place.

    Returns a line for each thing that was not simply copied.

    The classifier stays as it was drawn where classes differ, in number or by name; position maps (H, W, C) are
    interpolated (timm's bicubic); quantisers of attention that only one model has stay as they are, and take their
    first values from the first batch. Raises UserError for another architecture.
    """
    check_same_architecture(start.spec, model.spec, source)
    tensors, own = start.state_dict(), model.state_dict()
    notes = []
    named = start.class_names is not None and model.class_names is not None
    if start.spec.task != model.spec.task:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("head.")}
        tensors |= {name: value for name, value in own.items() if name.startswith("head.")}
        notes.append(f"new decoder: {source} is a classifier")
    elif start.spec.num_classes != model.spec.num_classes or (named and start.class_names != model.class_names):
        for name in ("head.linear.weight", "head.linear.bias"):
            tensors[name] = own[name]
        others = " others" if start.spec.num_classes == model.spec.num_classes else ""
        notes.append(
            f"new classifier: {source} has {counted(start.spec.num_classes, 'class')}, the data "
            f"{model.spec.num_classes}{others}"
        )
    resized = [name for name in own if name.endswith(".position") and tensors[name].shape != own[name].shape]
    for name in resized:
        height, width = own[name].shape[:2]
        tensors[name] = resample_abs_pos_embed_nhwc(tensors[name], [height, width])[0]
    if resized:
        (h, w), (height, width) = start.spec.grid(0), model.spec.grid(0)
        notes.append(f"position maps are interpolated: the first has {h}x{w} tokens in {source}, here {height}x{width}")
    if start.spec.patch != model.spec.patch:
        notes.append(
            f"the stem's convolution takes steps of {counted(model.spec.patch, 'pixel')}, not {start.spec.patch}"
        )
    for name in own.keys() ^ tensors.keys():
        if ".quantizer." not in name:
            raise UserError(f"{source}: tensor {name} is {'missing' if name in own else 'unknown'}")
        tensors.pop(name, None)
        if name in own:
            tensors[name] = own[name]
    for index, (old, new) in enumerate(zip(start.spec.stages, model.spec.stages)):
        for kind in ("weight_bits", "activation_bits"):
            if getattr(old, kind) != getattr(new, kind):
                notes.append(f"stage {index} goes from {kind} {getattr(old, kind)} to {getattr(new, kind)}")
    model.load_state_dict(tensors)
    return notes
