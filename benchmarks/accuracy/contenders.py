"""The networks that `front` compares: how to make each, and what suits its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import timm
from benchmarks.accuracy.small_images import CLASSES, ResNet20, finer, resnet18
from torch import nn

_FINE: dict[str, Any] = {"patch": 2, "stem_kernel": 4}
_FLOAT: dict[str, Any] = {"weight_bits": 32, "activation_bits": 32, "downsample": "float"}

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

# Twice the channels of bhvit_nano.
_WIDE: dict[str, Any] = {
    "stages.0.channels": 128,
    "stages.0.hidden": 512,
    "stages.1.channels": 256,
    "stages.1.hidden": 1024,
    "stages.1.heads": 4,
    "stages.2.channels": 512,
    "stages.2.hidden": 2048,
    "stages.2.heads": 8,
    "stem_kernel": 8,
}

_SGD: dict[str, Any] = {"opt": "sgd", "lr": 0.1, "weight_decay": 5e-4, "precision": "bfloat16"}
"""What suits residual networks in full precision; the others have the AdamW of the recipe."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A network and its settings of training, in addition to those of the recipe `cifar10`."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    network: Callable[[], nn.Module] | None = None
    """Makes it in PyTorch; None: `bhvit_nano` with `settings`."""

    @property
    def floating(self) -> bool:
        """Whether it has no bits: other engines run it, too."""
        return self.network is not None or self.settings.get("weight_bits") == 32


CONTENDERS = (
    Contender(name="BHViT nano, patch 4"),
    Contender(name="BHViT nano, patch 2, overlapping", settings=_FINE),
    Contender(name="BHViT nano, half the blocks, patch 2, overlapping", settings={**_FINE, "depth": 1}),
    Contender(name="BHViT nano, twice the channels, patch 4, overlapping", settings=_WIDE),
    Contender(name="BHViT nano †, patch 4 (full-precision downsampling)", settings={"downsample": "float"}),
    Contender(name="BinaryViT of the same size, patch 4", settings=_BINARYVIT),
    Contender(name="BHViT nano, patch 4, all in full precision", settings=_FLOAT),
    Contender(name="BHViT nano, patch 2, overlapping, all in full precision", settings={**_FLOAT, **_FINE}),
    Contender(name="Binary ResNet-20 (ReActNet's blocks)", network=lambda: ResNet20(binary=True)),
    Contender(name="ResNet-20", settings=_SGD, network=ResNet20),
    Contender(
        name="MobileNetV3-Small, two strides fewer",
        settings={"precision": "bfloat16"},
        network=lambda: finer("mobilenetv3_small_100", 2),
    ),
    Contender(
        name="MobileNetV3-Small (timm)",
        settings={"precision": "bfloat16"},
        network=lambda: timm.create_model("mobilenetv3_small_100", num_classes=CLASSES),
    ),
    Contender(
        name="CS3-DarkNet-S (YOLOv5's backbone), two strides fewer",
        settings=_SGD,
        network=lambda: finer("cs3darknet_s", 2),
    ),
    Contender(
        name="ResNet-18 (timm)", settings=_SGD, network=lambda: timm.create_model("resnet18", num_classes=CLASSES)
    ),
    Contender(name="ResNet-18, stem for small images", settings=_SGD, network=resnet18),
)


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
