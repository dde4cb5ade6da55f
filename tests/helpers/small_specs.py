"""Small specs with every op, option and odd shape: what each instruction set must compute as the reference does."""

from __future__ import annotations

from typing import Any

from bhvit.spec.model import ModelSpec, StageSpec
from helpers.random_model import bhvit


def _stage(mixer: str, channels: int, r: int, **changes: Any) -> StageSpec:
    return StageSpec(depth=1, channels=channels, hidden=channels * r, mixer=mixer, **changes)  # type: ignore[arg-type]


SPECS = [
    bhvit("published-96x64", (1, 1, 1, 1), (96, 64), num_classes=10),
    bhvit("published-float-downsampling", (1, 1, 2, 1), (64, 96), num_classes=33, downsample="float"),
    ModelSpec(
        name="one-channel",
        img_size=(28, 28),
        in_chans=1,
        patch=2,
        num_classes=3,
        stages=(_stage("conv", 64, 2), _stage("attention", 64, 4, heads=2, window=(7, 7))),
    ),
    ModelSpec(
        name="odd-windows",
        img_size=(30, 45),
        in_chans=5,
        patch=3,
        num_classes=17,
        stages=(_stage("attention", 32, 1, heads=1, window=(5, 3)),),
    ),
    ModelSpec(
        name="tall-windows",
        img_size=(8, 24),
        patch=1,
        num_classes=1,
        stages=(_stage("attention", 64, 2, window=(2, 12)), _stage("attention", 128, 2, heads=4, window=(4, 1))),
    ),
    ModelSpec(
        name="three-groups-of-hidden", img_size=(12, 20), patch=4, num_classes=16, stages=(_stage("conv", 192, 3),)
    ),
    ModelSpec(
        name="narrow-shares",
        img_size=(12, 12),
        patch=2,
        num_classes=5,
        stages=(_stage("conv", 64, 16), _stage("attention", 64, 32, heads=2, window=(3, 3))),
    ),
    ModelSpec(
        name="six-hidden-groups",
        img_size=(7, 5),
        patch=1,
        num_classes=15,
        stages=(_stage("attention", 96, 6, heads=3, window=(7, 5)),),
    ),
    ModelSpec(name="one-token", img_size=(4, 4), patch=4, num_classes=2, stages=(_stage("conv", 64, 1),)),
    ModelSpec(
        name="one-bit-pooled",
        img_size=(24, 40),
        patch=2,
        num_classes=7,
        attention="one_bit",
        branches="pool",
        stem_activation="none",
        stages=(_stage("pooled_attention", 64, 4, key_pool=4), _stage("pooled_attention", 128, 2, heads=2)),
    ),
    ModelSpec(
        name="layer-gsb",
        img_size=(24, 16),
        patch=2,
        num_classes=7,
        attention="gsb",
        norm="layer",
        stages=(_stage("conv", 128, 8), _stage("attention", 256, 2, heads=4, window=(3, 2))),
    ),
    ModelSpec(
        name="numbers",
        img_size=(12, 20),
        patch=2,
        num_classes=7,
        norm="layer",
        downsample="float",
        stages=(
            _stage("conv", 64, 4, activation_bits=32),
            _stage("attention", 64, 2, activation_bits=32),
        ),
    ),
    ModelSpec(
        name="float-weights-odd",
        img_size=(28, 28),
        patch=4,
        num_classes=7,
        branches="pool",
        shifts=(5,),
        stages=(_stage("conv", 192, 6, weight_bits=32),),
    ),
    ModelSpec(
        name="all-numbers-pooled",
        img_size=(18, 12),
        patch=1,
        num_classes=7,
        stages=(_stage("pooled_attention", 96, 3, heads=3, key_pool=3, weight_bits=32, activation_bits=32),),
    ),
    *(
        ModelSpec(
            name=f"stem-{kernel}-over-{patch}-{norm}",
            img_size=(height * patch, width * patch),
            in_chans=2,
            patch=patch,
            stem_kernel=kernel,
            num_classes=3,
            norm=norm,  # type: ignore[arg-type]
            stages=(_stage("pooling", 96, 1),),
        )
        for patch, kernel, height, width, norm in (
            (2, 4, 6, 35, "batch"),
            (2, 4, 1, 1, "batch"),
            (4, 6, 3, 18, "batch"),
            (1, 3, 9, 20, "layer"),
            (3, 7, 5, 17, "batch"),
            (2, 64, 3, 40, "layer"),
        )
    ),
    *(
        ModelSpec(
            name=f"segment-{name}",
            img_size=size,
            in_chans=2,
            patch=patch,
            num_classes=classes,
            task="segment",
            stages=stages,
            **changes,
        )
        for name, size, patch, classes, stages, changes in (
            (
                "three-grids",
                (24, 40),
                2,
                11,
                (_stage("conv", 64, 2), _stage("conv", 128, 1), _stage("attention", 256, 1, heads=4)),
                {"decoder_channels": 128},
            ),
            ("one-grid", (9, 15), 3, 2, (_stage("pooling", 64, 1),), {"decoder_blocks": 0}),
            ("one-token", (5, 5), 5, 1, (_stage("conv", 64, 1),), {}),
            (
                "layer",
                (16, 72),
                4,
                19,
                (_stage("conv", 64, 1), _stage("pooling", 192, 1)),
                {"norm": "layer", "decoder_blocks": 2},
            ),
            (
                "numbers",
                (8, 12),
                1,
                255,
                (_stage("pooling", 32, 1, activation_bits=32, weight_bits=32), _stage("pooling", 32, 1)),
                {"decoder_blocks": 0, "downsample": "float"},
            ),
            ("large-patch", (64, 96), 16, 3, (_stage("conv", 128, 1), _stage("conv", 128, 1)), {}),
        )
    ),
    ModelSpec(
        name="pooling", img_size=(10, 2), patch=2, num_classes=7, norm="layer", stages=(_stage("pooling", 96, 1),)
    ),
]

LABELS = ModelSpec(
    name="labels",
    img_size=(8, 12),
    patch=4,
    num_classes=3,
    task="segment",
    stages=(StageSpec(depth=1, channels=64, hidden=64, mixer="conv"),),
)
"""A segmentation for the tests of services and commands."""
