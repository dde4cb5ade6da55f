"""The models, in PyTorch."""

import importlib

from ..errors import require_extra
from ..spec.sizes import list_models, model_spec

try:
    importlib.import_module("torch")
    importlib.import_module("timm")
except ModuleNotFoundError as error:
    raise require_extra(error.name or "torch", "train") from None


from .checkpoint import load_checkpoint, save_checkpoint
from .network import BHViT, regularisation_loss
from .published.convert import from_published, to_published
from .registration import (
    register_activation,
    register_activation_quantizer,
    register_attention_quantizer,
    register_mixer,
    register_weight_quantizer,
)
from .registry import create_model
from .trace import trace

__all__ = [
    "BHViT",
    "create_model",
    "from_published",
    "list_models",
    "load_checkpoint",
    "model_spec",
    "register_activation",
    "register_activation_quantizer",
    "register_attention_quantizer",
    "register_mixer",
    "register_weight_quantizer",
    "regularisation_loss",
    "save_checkpoint",
    "to_published",
    "trace",
]
