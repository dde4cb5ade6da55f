"""Inputs for the fuzzers to start from: `python tests/fuzz/corpus.py FOLDER` makes a folder for each.

`models` holds good small files of every op and option and one of many ops, `json` and `schema` their texts.

Files that packing makes are too large to mutate quickly, so these are `variants` with fewer channels, tokens, blocks.
Needs no PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bhvit.format import file as bhv_file
from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import random_model

_CONV = StageSpec(depth=1, channels=64, hidden=64, mixer="conv")
_ATTENTION = StageSpec(depth=1, channels=64, hidden=64, mixer="attention", heads=2, window=(2, 2))
_POOLED = StageSpec(depth=1, channels=32, hidden=32, mixer="pooled_attention", heads=1, key_pool=2)
_POOLING = dataclasses.replace(_CONV, mixer="pooling")

_STAGES = {
    "conv": (_CONV, _ATTENTION),
    "pooled": (_POOLED, dataclasses.replace(_POOLED, channels=64, hidden=64, heads=2, key_pool=1)),
    "pooling": (_POOLING, _ATTENTION),
}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer": {"norm": "layer"},
    "gsb": {"attention": "gsb"},
    "one-bit": {"attention": "one_bit"},
    "float-downsampling": {"downsample": "float"},
    "float-downsampling-layer": {"downsample": "float", "norm": "layer"},
    "plain-stem": {"stem_activation": "none"},
    "overlapping-stem": {"stem_kernel": 4},
    "pool": {"branches": "pool"},
}
_BITS = {"": (1, 1), "-float-weights": (32, 1), "-float-activations": (1, 32), "-float": (32, 32)}


_TEXTS = ("program", "spec", "class_names", "preprocess")


def specs() -> dict[str, ModelSpec]:
    """One model for each mixture of mixers, overrides and bits."""
    found = {}
    for stages_name, stages in _STAGES.items():
        for override, changes in _OVERRIDES.items():
            for bits_name, (weights, activations) in _BITS.items():
                if bits_name and override not in ("plain", "layer"):
                    continue
                name = f"{stages_name}-{override}{bits_name}"
                changed = tuple(
                    dataclasses.replace(stage, weight_bits=weights, activation_bits=activations) for stage in stages
                )
                found[name] = ModelSpec(
                    name=name, img_size=(8, 8), patch=2, in_chans=1, num_classes=3, stages=changed, **changes
                )
    # Its logits are of pixels, and its program is no straight line.
    for norm in ("batch", "layer"):
        found[f"segment-{norm}"] = ModelSpec(
            name=f"segment-{norm}",
            img_size=(8, 8),
            patch=2,
            in_chans=1,
            num_classes=3,
            task="segment",
            stages=_STAGES["pooling"],
            norm=norm,
            decoder_blocks=int(norm == "batch"),
            decoder_hidden=64,
        )
    return found


def deep_spec() -> ModelSpec:
    """A program of a hundred ops."""
    stages = (dataclasses.replace(_CONV, depth=25), dataclasses.replace(_ATTENTION, depth=24))
    return ModelSpec(name="deep", img_size=(8, 8), patch=2, in_chans=1, num_classes=3, stages=stages)


def texts(data: bytes) -> dict[str, bytes]:
    """The JSON texts of a file's header, and the header itself."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    metadata = json.loads(header)["__metadata__"]
    return {"header": header, **{key: metadata[key].encode() for key in _TEXTS}}


def main() -> None:
    folder = Path(sys.argv[1])
    for kind in ("models", "json", "schema"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, spec in {**specs(), "deep": deep_spec()}.items():
        data = bhv_file.to_bytes(random_model(spec, half=len(name) % 2 == 0))
        (folder / "models" / f"{name}.bhv").write_bytes(data)
        found = texts(data)
        for key, text in found.items():
            (folder / "json" / f"{name}.{key}").write_bytes(text)
        for key in _TEXTS[1:]:
            (folder / "schema" / f"{name}.{key}").write_bytes(found["program"] + b"\0" + found[key])


if __name__ == "__main__":
    main()
