"""Run the published BHViT and BinaryViT code from checkouts of their repositories.

They ask of `transformers` a configuration object and three result classes, which stand-ins here are enough
for, so that neither that package nor its version matters.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

MODELS = {
    "bhvit_tiny": ("dbhvit", "configs/BHViT_tiny/config.json"),
    "bhvit_small": ("dbhvit", "configs/BHViT/config.json"),
    "binaryvit_small": ("extra-res-pyramid", "configs/binaryvit-small-patch4-224/config.json"),
}
"""The launch script's type and configuration of each model."""
_OFF = dict.fromkeys(
    (
        "shift3",
        "shift5",
        "avg_res3",
        "avg_res5",
        "replace_ln_bn",
        "disable_layerscale",
        "enable_cls_token",
        "gsb",
        "recu",
        "some_fp",
    ),
    False,
)


def build(checkout: Path, name: str, **switches: Any) -> nn.Module:
    """The published model `name` with the launch script's `switches`, those not given being off.

    Further `switches` are `classes`, `weight_bits` and `input_bits`.
    """
    kind, path = MODELS[name]
    config = json.loads((checkout / path).read_text())
    bits = switches.pop("weight_bits", 1), switches.pop("input_bits", 1)
    args = types.SimpleNamespace(**_OFF, drop_path=0.0, nb_classes=switches.pop("classes", 1000))
    vars(args).update(switches)
    with _importable(checkout), contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module("models").get_model(args, config, kind, *bits)


class _Config(types.SimpleNamespace):
    output_attentions = output_hidden_states = False
    use_return_dict = True
    chunk_size_feed_forward = 0

    @classmethod
    def from_pretrained(cls, fields: dict[str, Any]) -> _Config:
        return cls(**fields)


class _Result(types.SimpleNamespace):
    def __getitem__(self, index: int) -> Any:
        return list(vars(self).values())[index]


@contextlib.contextmanager
def _importable(checkout: Path) -> Iterator[None]:
    """The checkout's modules, whose names both repositories share, and the stand-ins, while they are needed."""
    stand_ins = {
        "transformers": {"ViTConfig": _Config},
        "transformers.activations": {"ACT2FN": {}},
        "transformers.modeling_outputs": dict.fromkeys(
            ("BaseModelOutput", "BaseModelOutputWithPooling", "ImageClassifierOutput"), _Result
        ),
        "transformers.utils": {"logging": types.SimpleNamespace(get_logger=lambda _name: None)},
    }
    before = dict(sys.modules)
    for name, members in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    sys.path.insert(0, str(checkout))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("models", "transformer", "transformers"):
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})
