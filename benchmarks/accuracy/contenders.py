"""The networks that `compare` trains, and how to make each."""

from __future__ import annotations

from typing import Any

# In the place of window attention BinaryViT has attention to pooled keys, and its branches pool.
_BINARYVIT: dict[str, Any] = {
    "stages.0.mixer": "pooled_attention",
    "stages.0.heads": 1,
    "stages.0.key_pool": 4,
    "stages.1.mixer": "pooled_attention",
    "stages.1.heads": 2,
    "stages.1.key_pool": 2,
    "stages.2.mixer": "pooled_attention",
    "stages.2.heads": 4,
    "branches": "pool",
    "attention": "one_bit",
    "stem_activation": "none",
    "centre_conv_weights": False,
}

OURS: dict[str, dict[str, Any]] = {
    "BHViT nano": {},
    "BHViT nano, full-precision downsampling (†)": {"downsample": "float"},
    "BinaryViT of the same size": _BINARYVIT,
    "BHViT nano, all in full precision": {"weight_bits": 32, "activation_bits": 32, "downsample": "float"},
}
"""Switches of `bhvit_nano`."""

TIMM = {"ResNet-18 (timm)": "resnet18", "MobileNetV3-Small (timm)": "mobilenetv3_small_100"}
"""Models of timm as they are, for the same 32x32 images, from scratch."""


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
