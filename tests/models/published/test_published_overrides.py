"""Agreement with the published code under its other switches: numbers that it gave in float64.

Weights and images are drawn from names, so that a case is a few numbers. They were recorded from the
published code with the same draw, blocks once a stage; `benchmarks/fidelity` compares everything, given it.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bhvit.models import BHViT, from_published, model_spec, to_published

DOUBLE = {"weight_bits": 32, "activation_bits": 32}

# switches as fields of the spec; bits of every stage; what from_published must be told; then the first and last
# logit, the loss against the least likely class, and the norm of all gradients together.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int], dict[str, Any], tuple[float, ...]]] = {
    "layer norm": (
        "bhvit_tiny",
        {"norm": "layer"},
        {},
        {},
        (0.12057672716143399, 0.7715508321254152, 9.610114173894253, 21.159838415034013),
    ),
    "shift 3 alone, 10 classes": (
        "bhvit_tiny",
        {"shifts": (3,), "num_classes": 10},
        {},
        {},
        (0.07359536903915845, 0.8457902906442509, 13.956028963972114, 156.61915681172502),
    ),
    "shift 5 alone, GSB": (
        "bhvit_tiny",
        {"shifts": (5,), "attention": "gsb"},
        {},
        {},
        (0.48491430114831346, 1.7147029198144763, 25.98978744493049, 134.630378873296),
    ),
    "no shifts, ReCU": (
        "bhvit_tiny",
        {"shifts": (), "recu": True},
        {},
        {"recu": True},
        (2.2015136513101594, 4.490181156041759, 20.854134876445638, 1176.0880582964849),
    ),
    "full precision, 200 classes": (
        "bhvit_tiny",
        {"num_classes": 200},
        DOUBLE,
        {},
        (-17.197714186711202, -50.99761325332761, 108.40242716347797, 1139.3942117308973),
    ),
    "full-precision weights": (
        "bhvit_tiny",
        {},
        {"weight_bits": 32},
        {"weight_bits": 32},
        (-2.5548805762933693, 0.6844788871876812, 28.925154657305566, 160.68837190787042),
    ),
    "full-precision activations and downsampling": (
        "bhvit_tiny_fp",
        {},
        {"activation_bits": 32},
        {"weight_bits": 1},
        (-8.320898980358105, 3.7125235928121603, 39.86524441070408, 376.483252008651),
    ),
    "BinaryViT, full-precision downsampling, layer norm": (
        "binaryvit_small_fp",
        {"norm": "layer"},
        {},
        {},
        (-0.4640876193379262, 0.03901326259801463, 9.667005402978848, 142.1921381392588),
    ),
    "BinaryViT, pooling 3 alone, 10 classes": (
        "binaryvit_small",
        {"shifts": (3,), "num_classes": 10},
        {},
        {},
        (0.35998156457504077, -2.2816708706869018, 8.98097046227124, 108.90192671023516),
    ),
    "BinaryViT, full precision, pooling 5 alone": (
        "binaryvit_small",
        {"shifts": (5,)},
        DOUBLE,
        {},
        (7.707217602702463, -1.4274141412633832, 72.54461520113189, 1054.1584457875176),
    ),
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of a state dict, or "images", from its name alone."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("num_batches_tracked", "init_state"):
        return np.full(shape, int(leaf == "init_state"), np.float64)
    positive = leaf in ("running_var", "a1", "parm") or "prelu.w" in name or ("norm" in name and leaf == "weight")
    if "att_prob" in name and leaf != "zero_point":
        return rng.uniform(0.02, 0.2, shape)
    if positive:
        return rng.uniform(0.2, 1.2, shape)
    return rng.normal(0.0, 0.05 if leaf in ("weight", "zero_point") else 0.2, shape)


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: draw(name, shape) for name, shape in shapes.items()}


def images() -> torch.Tensor:
    x = draw("images", (1, 3, 224, 224)) * 5
    return torch.tensor(x + np.roll(x, 1, axis=-1))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_agree_under_every_switch(case: str) -> None:
    name, fields, bits, told, expected = CASES[case]
    spec = model_spec(name, **fields)
    fewer: dict[str, Any] = {"depth": 1, **bits}
    stages = tuple(dataclasses.replace(stage, **fewer) for stage in spec.stages)
    spec = dataclasses.replace(spec, stages=stages, name="binaryvit" if name.startswith("binaryvit") else "bhvit")
    shapes = {key: tuple(value.shape) for key, value in to_published(BHViT(spec)).items()}
    model = from_published(drawn(shapes), **told)
    assert model.spec == spec
    logits = model(images())
    loss = F.cross_entropy(logits, logits.argmin(dim=1))
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    actual = (logits[0, 0].item(), logits[0, -1].item(), loss.item(), norm.item())
    np.testing.assert_allclose(actual, expected, rtol=1e-8)
