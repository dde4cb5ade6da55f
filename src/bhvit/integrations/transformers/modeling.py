"""The network as transformers' image classifier and as its semantic segmentation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel

from ...data.mask_classes import IGNORED
from ...errors import UserError
from ...hf_layout import PREFIX
from ...models import BHViT
from ...models.blocks import Block, initialise_position
from ...models.layers import initialise
from ...models.mixers import QuantAttention
from ...models.trace import recording
from ...spec.model import Task
from .configuration import BHViTConfig


class _Pretrained(PreTrainedModel):
    """What transformers needs to know of the network, whatever its task."""

    config_class = BHViTConfig
    base_model_prefix = PREFIX.rstrip(".")  # so weights that the network itself saved load too
    main_input_name = "pixel_values"
    _no_split_modules = ("Block",)
    _task: Task
    _elsewhere: str
    """What is said of a model of another task."""

    def __init__(self, config: BHViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        spec = config.model_spec()
        if spec.task != self._task:
            raise UserError(f"{spec.name} {self._elsewhere} loads it")
        self.bhvit = BHViT(spec, drop_path=config.drop_path)
        self.bhvit.class_names = config.class_names()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """For weights that a folder lacks: a classifier of other labels, position maps of another size."""
        initialise(module)
        initialise_position(module)


class BHViTForImageClassification(_Pretrained):
    """Images (B, C, H, W) -> loss, logits (B, labels), and what flows in between.

    `bhvit` is the network itself, which can be packed: `bhvit.pack(model.bhvit.eval(), path, preprocess=…)`.
    """

    _task = "classify"
    _elsewhere = "labels pixels: AutoModelForSemanticSegmentation"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **settings: Any,
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Loss if there are `labels`, and logits (B, labels).

        hidden_states: (B, C, H, W) after the stem and after every block. attentions: the quantised attention matrix
        of every block that has one, (B, windows, heads, tokens, tokens), or (B, heads, tokens, keys) in BinaryViT.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return_dict = self.config.return_dict if return_dict is None else return_dict
        with (
            recording(self._blocks() if output_hidden_states else {}) as grids,
            recording(self._quantizers() if output_attentions else {}) as matrices,
        ):
            logits = self.bhvit(pixel_values)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **settings)
        output = ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(grid.permute(0, 3, 1, 2) for grid in grids.values()) if output_hidden_states else None,
            attentions=tuple(matrices.values()) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def _blocks(self) -> dict[str, nn.Module]:
        blocks = {name: module for name, module in self.bhvit.named_modules() if isinstance(module, Block)}
        return {"stem": self.bhvit.stem, **blocks}

    def _quantizers(self) -> dict[str, nn.Module]:
        modules = self.bhvit.named_modules()
        return {name: module.quantizer for name, module in modules if isinstance(module, QuantAttention)}


class BHViTForSemanticSegmentation(_Pretrained):
    """Label pixels: images (B, C, H, W) to logits (B, labels, H, W).

    `bhvit` is the network itself, whose spec has the task "segment".
    """

    _task = "segment"
    _elsewhere = "classifies: AutoModelForImageClassification"

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **settings: Any
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Compute the logits (B, labels, H, W), and the loss if there are `labels`.

        `labels` are (B, H, W); pixels of 255 do not count.
        """
        logits = self.bhvit(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels, ignore_index=IGNORED)
        output = SemanticSegmenterOutput(loss=loss, logits=logits)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()


def _register() -> None:
    # Here and not above, since importing it imports this module first, where bhvit was imported before.
    from transformers.models.auto.modeling_auto import (
        AutoModelForImageClassification,
        AutoModelForSemanticSegmentation,
    )

    AutoModelForSemanticSegmentation.register(BHViTConfig, BHViTForSemanticSegmentation, exist_ok=True)
    AutoModelForImageClassification.register(BHViTConfig, BHViTForImageClassification, exist_ok=True)


_register()
