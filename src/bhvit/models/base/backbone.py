"""timm's interface: feature maps of every stage, and the head in parts.

Names and meanings are timm's (Wightman, PyTorch Image Models); `timm_models` registers the models there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...calibration import Calibration
from ...errors import UserError
from ...image import Preprocess
from ...spec.model import ModelSpec
from ..blocks import Head, Stem
from ..layers import initialise
from ..segmentation import SegmentationHead
from .checkpointing import checkpointed

Pool = Literal["avg", ""]
"""How a head pools tokens: their mean, or not at all, which goes without a classifier."""


class Backbone(nn.Module):
    """A stem, stages with downsampling between them, and a head.

    Grids of tokens are (B, H, W, C), as `output_fmt` says; `forward_intermediates` gives (B, C, H, W) unless asked.
    """

    output_fmt = "NHWC"
    grad_checkpointing = False
    """Whether blocks keep nothing for backward but their inputs; `set_grad_checkpointing` sets it."""

    spec: ModelSpec
    class_names: tuple[str, ...] | None
    preprocess: Preprocess | None
    calibration: Calibration | None
    stem: Stem
    stages: nn.ModuleList
    downsamples: nn.ModuleList
    head: Head | SegmentationHead

    @property
    def num_classes(self) -> int:
        """Classes of the classifier, 0 if it was taken off."""
        return self.head.linear.out_features if isinstance(self.head.linear, nn.Linear) else 0

    @property
    def num_features(self) -> int:
        """Channels of the last stage, which are those that the classifier takes."""
        return self.spec.stages[-1].channels

    @property
    def head_hidden_size(self) -> int:
        """The same: nothing widens the features between the last stage and the classifier."""
        return self.num_features

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.spec.in_chans

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Of every stage, its channels, its stride in pixels, and its module."""
        return [
            {"num_chs": stage.channels, "reduction": self.spec.patch * 2**index, "module": f"stages.{index}"}
            for index, stage in enumerate(self.spec.stages)
        ]

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> tokens of the last stage (B, H', W', C)."""
        x = self.embed(images)
        for index in range(len(self.stages)):
            x = self._stage(index, x)
        return x

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the tokens of the last stage, and feature maps of some stages.

        indices: numbers of stages; an int for the last so many, None for all.

        norm: normalise the last stage's map as the head does. stop_early: go no further than the last map asked for.
        output_fmt: "NCHW" or "NHWC", of the maps. intermediates_only: return the list of maps alone.
        Raises UserError for another format or for stages that are not there.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise UserError(f"output_fmt must be NCHW or NHWC, not {output_fmt!r}")
        taken = self._taken(indices)
        stages = max(taken) + 1 if stop_early or intermediates_only else len(self.stages)
        maps = []
        x = self.embed(images)
        for index in range(stages):
            x = self._stage(index, x)
            if index in taken:
                shown = self.head.norm(x) if norm and index == len(self.stages) - 1 else x
                maps.append(shown.permute(0, 3, 1, 2) if output_fmt == "NCHW" else shown)
        return maps if intermediates_only else (x, maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, H', W', C) -> logits (B, classes).

        With `pre_logits`, the features that the classifier takes, (B, C).

        Raises UserError for a segmentation, whose head takes the grids of all stages.
        """
        if isinstance(self.head, SegmentationHead):
            raise UserError("the head of a segmentation takes the grids of all stages: call the model itself")
        result: Tensor = self.head.pool(x) if pre_logits else self.head(x)
        return result

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.head, SegmentationHead):
            logits: Tensor = self.head(self.stage_grids(images))
        else:
            logits = self.head(self.forward_features(images))
        return logits

    def stage_grids(self, images: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> tokens of each stage, (B, H', W', C)."""
        x = self.embed(images)
        grids = []
        for index in range(len(self.stages)):
            x = self._stage(index, x)
            grids.append(x)
        return grids

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> tokens (B, H/patch, W/patch, C).

        Raises ValueError for images of another shape.
        """
        expected = (self.spec.in_chans, *self.spec.img_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"{self.spec.name} takes images of shape (batch, {', '.join(map(str, expected))}), "
                f"not {tuple(images.shape)}; create_model(..., img_size=...) sets another size"
            )
        x: Tensor = self.stem(images)
        return x

    def _stage(self, index: int, x: Tensor) -> Tensor:
        if index:
            x = self.downsamples[index - 1](x)
        stage = self.stages[index]
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            for block in stage.children():
                x = checkpointed(block, x)
            return x
        y: Tensor = stage(x)
        return y

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in backward: less memory, about a third slower.

        Gradients and batch statistics stay what they are without.
        """
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The classifier, nn.Identity if it was taken off."""
        return self.head.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of `num_classes` classes, their names and calibration forgotten; 0 takes it off.

        global_pool: "avg", "" for tokens as they are, which goes without a classifier, or None for no change.
        Raises UserError for anything else, and leaves the model as it was.
        """
        head = self.head
        if isinstance(head, SegmentationHead):
            if not num_classes or global_pool is not None:
                raise UserError(
                    "a segmentation pools nothing and keeps its classifier: create a model with task=classify"
                )
            self._forget_classes(num_classes)
            head.linear = self._new_classifier(self.spec.decoder_channels)
            return
        pool = head.pooling if global_pool is None else global_pool
        if pool not in ("avg", ""):
            raise UserError(f"global_pool must be avg, or empty for none, not {pool!r}")
        if num_classes and not pool:
            raise UserError("a classifier takes pooled features; global_pool='' goes with num_classes=0")
        self._forget_classes(num_classes)
        head.pooling = pool
        head.linear = self._new_classifier(self.num_features) if num_classes else nn.Identity()

    def _forget_classes(self, num_classes: int) -> None:
        if num_classes:
            self.spec = dataclasses.replace(self.spec, num_classes=num_classes)  # first: it refuses impossible numbers
        self.class_names = self.calibration = None

    def _new_classifier(self, features: int) -> nn.Linear:
        linear = nn.Linear(features, self.spec.num_classes)
        initialise(linear)
        return linear.to(self.stem.position)

    def require_classifier(self) -> None:
        """Raises UserError if the classifier was taken off.

        Such a model is neither saved nor packed.
        """
        if not self.num_classes:
            raise UserError(f"this {self.spec.name} has no classifier; reset_classifier(classes) gives it one")

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of `indices`.

        The head's norm and classifier go too, if asked or where later stages went.

        Returns the indices as numbers from 0. Raises UserError for stages that are not there, and for a segmentation,
        whose decoder reads all of them.
        """
        if isinstance(self.head, SegmentationHead):
            raise UserError("the decoder of a segmentation reads all stages: none can be pruned")
        taken = self._taken(indices)
        last = max(taken)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.downsamples = self.downsamples[:last]
        self.spec = dataclasses.replace(self.spec, stages=self.spec.stages[: last + 1])
        if prune_norm or shorter:
            self.head.norm = nn.Identity()
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return taken

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        """Resolve stages to numbers from 0.

        An int stands for the last so many, None for all, negative numbers count from the end.
        """
        count = len(self.stages)
        if not isinstance(indices, int):
            taken = [index + count if index < 0 else index for index in (range(count) if indices is None else indices)]
        else:
            taken = list(range(count - indices, count))
        if not taken or not all(0 <= index < count for index in taken):
            raise UserError(f"{self.spec.name} has stages 0 to {count - 1}; no feature maps of {indices!r}")
        return taken

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order parameters from stem to head, for learning rates that grow with depth."""
        by_block = [(r"^stages\.(\d+)\.(\d+)", None), (r"^downsamples\.(\d+)", (99,))]  # after that stage
        return {
            "stem": r"^stem",
            "blocks": r"^(?:stages|downsamples)\.(\d+)" if coarse else by_block,
        }
