"""Every override of the spec on small models: what packing, the reference and the engine must all compute."""

from __future__ import annotations

import dataclasses
from typing import Any

from bhvit.models import model_spec
from bhvit.spec.model import ModelSpec

_NANO = model_spec("bhvit_nano", num_classes=11, img_size=(32, 48))
_BINARYVIT = model_spec("binaryvit_small", num_classes=11, img_size=64)


def _stages(spec: ModelSpec, *changes: dict[str, Any]) -> dict[str, Any]:
    """One change a stage, or one for all."""
    every = changes * len(spec.stages) if len(changes) == 1 else changes
    return {"stages": tuple(dataclasses.replace(s, **c) for s, c in zip(spec.stages, every, strict=True))}


_SHORT = dataclasses.replace(
    _BINARYVIT,
    stages=tuple(dataclasses.replace(s, depth=1, key_pool=p) for s, p in zip(_BINARYVIT.stages, (8, 4, 2, 1))),
)
_POOLED = _stages(
    _NANO,
    {"mixer": "pooled_attention", "key_pool": 4, "heads": 1},
    {"mixer": "pooled_attention", "key_pool": 1, "heads": 4},
    {"mixer": "attention", "heads": 2},
)
_FLOAT = {"weight_bits": 32, "activation_bits": 32}

VARIANTS: dict[str, ModelSpec] = {
    name: dataclasses.replace(spec, name=name, **changes)
    for name, spec, changes in (
        ("binaryvit", _SHORT, {}),
        ("binaryvit-float-downsampling", _SHORT, {"downsample": "float"}),
        ("binaryvit-layer", _SHORT, {"norm": "layer"}),
        ("layer", _NANO, {"norm": "layer"}),
        ("layer-float-downsampling", _NANO, {"norm": "layer", "downsample": "float"}),
        ("gsb", _NANO, {"attention": "gsb"}),
        ("gsb-layer", _NANO, {"attention": "gsb", "norm": "layer"}),
        ("one-bit", _NANO, {"attention": "one_bit"}),
        ("no-shifts", _NANO, {"shifts": ()}),
        ("shifts-3", _NANO, {"shifts": (3,)}),
        ("pool-5", _NANO, {"shifts": (5,), "branches": "pool"}),
        ("plain-stem", _NANO, {"stem_activation": "none"}),
        ("overlapping-stem", _NANO, {"stem_kernel": 8}),
        ("overlapping-stem-layer", _NANO, {"stem_kernel": 6, "norm": "layer"}),
        ("pooled-mixed", _NANO, {**_POOLED, "attention": "gsb", "branches": "pool"}),
        ("pooled-decomposition-layer", _NANO, {**_POOLED, "norm": "layer"}),
        ("pooling-mixer", _NANO, _stages(_NANO, {"mixer": "pooling"})),
        ("pooling-mixer-layer", _NANO, {"norm": "layer", **_stages(_NANO, {"mixer": "pooling"})}),
        ("window-everywhere", _NANO, _stages(_NANO, {"mixer": "attention", "heads": 2, "window": (2, 3)})),
        ("float-weights", _NANO, _stages(_NANO, {"weight_bits": 32})),
        ("float-activations", _NANO, _stages(_NANO, {"activation_bits": 32})),
        ("float", _NANO, _stages(_NANO, _FLOAT)),
        ("float-layer", _NANO, {"norm": "layer", **_stages(_NANO, _FLOAT)}),
        ("float-activations-layer", _NANO, {"norm": "layer", **_stages(_NANO, {"activation_bits": 32})}),
        ("float-weights-layer", _NANO, {"norm": "layer", **_stages(_NANO, {"weight_bits": 32})}),
        ("segment", _NANO, {"task": "segment"}),
        ("segment-wide", _NANO, {"task": "segment", "decoder_channels": 128, "decoder_blocks": 0, "float_bits": 8}),
        ("segment-layer", _NANO, {"task": "segment", "norm": "layer"}),
        ("segment-float", _NANO, {"task": "segment", **_stages(_NANO, _FLOAT)}),
        ("float-stage", _NANO, _stages(_NANO, {}, _FLOAT, {})),
        ("binaryvit-float-activations", _SHORT, _stages(_SHORT, {"activation_bits": 32})),
        ("binaryvit-float-layer", _SHORT, {"norm": "layer", **_stages(_SHORT, _FLOAT)}),
    )
}
