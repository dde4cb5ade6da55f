"""A training step on a GPU neither waits for the device nor copies to or from it, shown without a GPU.

Fake tensors have a device and a shape but no values: reading one, as `tensor.item()` or `if tensor` do, raises. Fake
CUDA tensors run the whole step but for autograd, whose engine asks a real card for its streams; meta tensors, which
have no values either, run the whole step with autograd.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from bhvit.image import Preprocess
from bhvit.models import BHViT, create_model
from bhvit.spec.mixers import Mixer
from bhvit.spec.model import StageSpec
from bhvit.train import TrainConfig
from bhvit.train.augment import Mixing
from bhvit.train.ema import ModelEma
from bhvit.train.loader import Batches
from bhvit.train.optim import hold_rates, make_optimizer, set_learning_rate
from bhvit.train.step import TrainStep
from bhvit.train.teacher import Teacher

PREPROCESS = Preprocess(size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)


class _Copies(TorchDispatchMode):
    """Raises AssertionError for an operation whose tensors lie on two devices, or that moves one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Fused optimisers change tensors in place; PyTorch has no fake form of them for rates in tensors.
        fused = str(func) in ("aten._fused_adamw_.tensor_lr", "aten._fused_sgd_.tensor_lr")
        result = None if fused else func(*args, **(kwargs or {}))
        self.calls += 1
        leaves, _ = torch.utils._pytree.tree_flatten((args, kwargs, result))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        assert len({tensor.device.type for tensor in tensors}) < 2, f"{func} works across devices"
        return result


def _stages(mixer: Mixer, **settings: Any) -> tuple[StageSpec, ...]:
    pooled = {"key_pool": 2} if mixer == "pooled_attention" else {}
    first = StageSpec(depth=1, channels=64, hidden=128, mixer=mixer, **pooled, **settings)
    return first, StageSpec(depth=1, channels=64, hidden=64, mixer=mixer, **settings)


def _model(mixer: Mixer = "attention", stage: dict[str, Any] | None = None, **settings: Any) -> BHViT:
    return create_model("bhvit_nano", num_classes=5, img_size=16, stages=_stages(mixer, **(stage or {})), **settings)


@pytest.fixture(params=["cuda", "meta"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device whose tensors have no values."""
    if request.param == "meta":
        yield torch.device("meta")
        return
    monkeypatch.setattr(Tensor, "backward", _zero_gradients)
    # Autocast is off where PyTorch finds no card.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr("bhvit.train.loader._fits", lambda pixels, device: False)
    with FakeTensorMode():
        yield torch.device("cuda")


def _zero_gradients(loss: Tensor) -> None:
    """Give every parameter that `loss` was computed from a gradient."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if (parameter := getattr(node, "variable", None)) is not None:
            parameter.grad = torch.zeros_like(parameter)


class _Images:
    """As much of a data set as making batches asks for."""

    labels = np.zeros(8, np.int64)
    blocks, window = None, 1

    def __len__(self) -> int:
        return len(self.labels)


def _inputs(config: TrainConfig, mixing: Mixing | None, device: torch.device) -> tuple[Batches, dict[str, Tensor]]:
    """Batches whose decoded images lie on `device`, and one of them with all that is drawn for it, there too."""
    with _disable_current_modes():
        drawn = Batches(_Images(), PREPROCESS, config, torch.device("cpu"), decoded=torch.zeros(8, 16, 16, 3).byte())  # type: ignore[arg-type]
        inputs = next(drawn.drawn(0)).inputs
        if mixing is not None:
            parts = [mixing.draw(PREPROCESS.size, seed) for seed in range(config.accumulate)]
            inputs |= {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    pixels = torch.empty(8, 16, 16, 3, dtype=torch.uint8, device=device)
    batches = Batches(_Images(), PREPROCESS, config, device, decoded=pixels)  # type: ignore[arg-type]
    return batches, {name: torch.empty(v.shape, dtype=v.dtype, device=device) for name, v in inputs.items()}


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if config.precision == "bfloat16" else nullcontext()


def _train_two_steps(model: BHViT, teacher: BHViT, device: torch.device, /, **settings: Any) -> int:
    """Run what a CUDA graph holds of a step twice on `device` and return how many operations the second one dispatched.

    In the first the quantisers take their values; the optimiser makes its state in it.
    """
    outputs = settings.pop("kept_outputs", False)
    config = TrainConfig.from_dict(
        {"data": "digits", "model": "bhvit_nano", "out": os.devnull, "epochs": 2, "batch_size": 4, **settings}
    )
    teaching = Teacher(teacher, PREPROCESS, PREPROCESS)
    with _disable_current_modes():
        ema = ModelEma(model, config) if config.ema else None
    for module in (model.train(), teaching, *([ema.module] if ema else [])):
        module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    optimizer = make_optimizer(model, config, static=True)
    if device.type == "meta":  # which the fused optimisers do not know
        for group in optimizer.param_groups:
            group["fused"] = group["capturable"] = False
    mixing = Mixing(config, config.label_smoothing, 5) if config.mixing else None
    batches, inputs = _inputs(config, mixing, device)
    inputs["numbers"] = torch.empty(2, device=device)
    if outputs:
        inputs["teacher"] = torch.empty(4, 5, device=device)
    phase: Any = SimpleNamespace(
        config=config,
        context=SimpleNamespace(device=device, say=None),
        model=model,
        network=model,
        optimizer=optimizer,
        mixing=mixing,
        class_weights=torch.empty(5, device=device),
        ema=ema,
        batches=batches,
        autocast=lambda: _autocast(config, device),
        sync=lambda last: nullcontext(),
        teacher=teaching if config.teacher and not outputs else None,
    )
    step = TrainStep(phase, static=True)
    whole = step._whole
    if whole:
        step._rates = hold_rates(optimizer, device)
        inputs["rates"] = torch.empty_like(step._rates)
    for _ in range(2):
        with _Copies() as copies:
            outcome = step._compute(inputs, None)
            if not whole:
                set_learning_rate(optimizer, 1e-3)
                step._update(0.5)
        assert outcome.device.type == device.type
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert whole or device.type == "meta" or config.opt == "lamb"
    return copies.calls


OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_grad": 1.0, "ema": 0.99},
    {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    {"teacher": "resnet18", "regularisation": 0.1, "dampening": 0.1, "balance": 0.5},
    {"teacher": "resnet18", "teacher_outputs": "kept", "kept_outputs": True},
    {"accumulate": 2, "layer_decay": 0.5},
    {"opt": "sgd", "rotate": 5.0, "zoom": 0.1},
    {"opt": "lamb", "erase": 0.3, "augment": "none"},
    {"precision": "bfloat16", "ema": 0.99, "mixup": 0.8, "teacher": "resnet18"},
]


MODELS: list[tuple[Mixer, dict[str, Any]]] = [
    ("conv", {}),
    ("conv", {"branches": "pool", "recu": True}),
    ("pooling", {"downsample": "float"}),
    ("attention", {"norm": "layer", "float_bits": 8}),
    ("attention", {"attention": "gsb"}),
    ("pooled_attention", {"attention": "one_bit"}),
    ("attention", {"stage": {"activation_bits": 32}}),
    ("attention", {"stage": {"weight_bits": 32}, "shifts": ()}),
]


# Made before the device: models are drawn from real random numbers.
@pytest.fixture
def models(request: pytest.FixtureRequest) -> tuple[BHViT, BHViT]:
    """The model to train, of the mixer and the settings that the test asks for, and a teacher."""
    mixer, settings = getattr(request, "param", ("attention", {}))
    return _model(mixer, **settings), _model()


@pytest.mark.parametrize("models", [("attention", {"drop_path": 0.1})], indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_no_option_of_training_waits_for_the_device(
    options: dict[str, Any], models: tuple[BHViT, BHViT], device: torch.device
) -> None:
    if options.get("precision") == "bfloat16" and device.type == "meta":
        options = {**options, "precision": "float32"}  # meta tensors know no autocast
    assert _train_two_steps(*models, device, **options) > 100


@pytest.mark.parametrize("models", MODELS, indirect=True, ids=str)
def test_no_kind_of_layer_waits_for_the_device(models: tuple[BHViT, BHViT], device: torch.device) -> None:
    assert _train_two_steps(*models, device) > 100


def test_what_waits_or_copies_is_seen(models: tuple[BHViT, BHViT], device: torch.device) -> None:
    tensor = torch.ones(1, device=device)
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense|meta tensors"):
        bool(tensor == 0)
    with pytest.raises(AssertionError, match="across devices"), _Copies():
        torch.ones(1).to(device)
    model, teacher = models
    quantizer: Any = model.stages[0][0].mixer.attention.quantizer  # type: ignore[index, union-attr]
    with _disable_current_modes():
        quantizer.initialised.zero_()  # written by another than the quantiser, which then has to look
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense|meta tensors"):
        _train_two_steps(model, teacher, device)
