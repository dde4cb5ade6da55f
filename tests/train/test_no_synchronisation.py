"""A training step on a GPU neither waits for the device nor copies to or from it, shown without a GPU.

Fake tensors have a device and a shape but no values: reading one, as `tensor.item()` or `if tensor` do, raises. Fake
CUDA tensors run the whole step but for autograd, whose engine asks a real card for its streams; meta tensors, which
have no values either, run the whole step with autograd. Steps are the training loop's own; filling their inputs is the
only copy that they may make. Layers compute as they are written, and fused as on a card, by Triton kernels that are
called without computing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from bhvit.image import Preprocess
from bhvit.models import BHViT, create_model
from bhvit.models.mixers import TokenMixer
from bhvit.spec.mixers import Mixer
from bhvit.spec.model import AttentionQuantizer, Branches, Norm, StageSpec
from bhvit.train import TrainConfig
from bhvit.train.augment import Mixing
from bhvit.train.distributed import BatchShard, Processes, _ShardedDropPath
from bhvit.train.ema import ModelEma
from bhvit.train.loader import Batch, Batches
from bhvit.train.optim import make_optimizer
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
    pooled: dict[str, Any] = {"key_pool": 2} if mixer == "pooled_attention" else {}
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
    monkeypatch.setattr(Tensor, "is_pinned", lambda *_: True)  # only a card can pin memory
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


@pytest.fixture(params=[False, True], ids=["plain", "fused"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whether layers call Triton kernels, which compute nothing here; the names of those that were called."""
    called: list[str] = []
    if not request.param:
        yield called
        return
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.training.launches import counting_triton

    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device != "meta" and enabled(device))
    with counting_triton(called):
        yield called


class _Images:
    """As much of a data set as making batches asks for."""

    labels = np.zeros(8, np.int64)
    blocks, window = None, 1

    def __len__(self) -> int:
        return len(self.labels)


def _batch(config: TrainConfig, device: torch.device) -> tuple[Batches, Batch]:
    """Batches whose decoded images lie on `device`, and one of them as it is drawn, on the CPU."""
    with _disable_current_modes():
        drawn = Batches(_Images(), PREPROCESS, config, torch.device("cpu"), decoded=torch.zeros(8, 16, 16, 3).byte())  # type: ignore[arg-type]
        inputs = next(drawn.drawn(0)).inputs
    pixels = torch.empty(8, 16, 16, 3, dtype=torch.uint8, device=device)
    batches = Batches(_Images(), PREPROCESS, config, device, decoded=pixels)  # type: ignore[arg-type]
    return batches, Batch({name: torch.empty(v.shape, dtype=v.dtype) for name, v in inputs.items()}, torch.arange(4))


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if config.precision == "bfloat16" else nullcontext()


class _Outputs:
    """Outputs of a teacher that are kept."""

    def __getitem__(self, images: Tensor) -> Tensor:
        return torch.empty(len(images), 5)


def _train_two_steps(model: BHViT, teacher: BHViT, device: torch.device, /, **settings: Any) -> int:
    """Take two steps on `device` and return how many operations of the second one were watched.

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
    whole = config.opt in ("adamw", "sgd")
    if device.type == "meta":  # which the fused optimisers do not know
        for group in optimizer.param_groups:
            group["fused"] = group["capturable"] = False
        whole = False
    batches, batch = _batch(config, device)
    phase: Any = SimpleNamespace(
        config=config,
        context=SimpleNamespace(device=device, say=None),
        model=model,
        network=model,
        optimizer=optimizer,
        mixing=Mixing(config, config.label_smoothing, 5) if config.mixing else None,
        class_weights=torch.empty(5, device=device) if config.balance else None,
        ema=ema,
        batches=batches,
        autocast=lambda: _autocast(config, device),
        sync=lambda last: nullcontext(),
        teacher=teaching if config.teacher and not outputs else None,
        outputs=_Outputs() if outputs else None,
    )
    step = TrainStep(phase, static=True)
    assert step._whole is whole
    assert step._static is not None
    operations: list[int] = []
    step._static._compute = _watched(step._static._compute, operations)
    if not whole:
        step._update = _watched(step._update, operations)  # type: ignore[method-assign]
    for done in range(2):
        operations.clear()
        outcome = step(batch, 7, done)
        assert outcome.device.type == device.type
    assert all(parameter.grad is not None for parameter in model.parameters())
    return sum(operations)


def _watched(function: Callable[..., Any], operations: list[int]) -> Callable[..., Any]:
    """`function`, which may not copy between devices; adds how many operations it dispatched."""

    def watched(*arguments: Any) -> Any:
        with _Copies() as copies:
            result = function(*arguments)
        operations.append(copies.calls)
        return result

    return watched


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
    ("conv", {"centre_conv_weights": False, "drop_path": 0.1}),
]


# Made before the device: models are drawn from real random numbers.
@pytest.fixture
def models(request: pytest.FixtureRequest) -> tuple[BHViT, BHViT]:
    """The model to train, of the mixer and the settings that the test asks for, and a teacher."""
    mixer: Mixer
    settings: dict[str, Any]
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


@pytest.mark.parametrize(
    ("device", "fused"),
    # Layers as they are written and fused ones, each on one device; on both in the longer run.
    [
        ("cuda", False),
        ("meta", True),
        *(pytest.param(*at, marks=pytest.mark.long) for at in (("cuda", True), ("meta", False))),
    ],
    indirect=True,
)
@pytest.mark.parametrize("models", MODELS, indirect=True, ids=str)
def test_no_kind_of_layer_waits_for_the_device(
    models: tuple[BHViT, BHViT], device: torch.device, fused: list[str]
) -> None:
    assert _train_two_steps(*models, device) > 100


def test_fused_layers_are_among_them(models: tuple[BHViT, BHViT], device: torch.device, fused: list[str]) -> None:
    _train_two_steps(*models, device, precision="bfloat16" if device.type == "cuda" else "float32")
    expected = {"unit", "signs", "binarise", "cross", "softmax_levels", "column_moments"}
    if device.type == "meta":  # with autograd
        expected |= {"unit_gradients", "signs_backward", "binarise_backward", "cross_sums", "softmax_levels_backward"}
    assert not fused or expected <= set(fused)


def test_every_kind_of_layer_is_among_them() -> None:
    assert {mixer for mixer, _ in MODELS} == set(TokenMixer.by_name)
    for name, kinds in (("attention", AttentionQuantizer), ("norm", Norm), ("branches", Branches)):
        kept = create_model("bhvit_nano").spec
        assert {settings.get(name, getattr(kept, name)) for _, settings in MODELS} == set(get_args(kinds))


def test_several_processes_draw_which_blocks_to_skip_without_copying(device: torch.device) -> None:
    skip = _ShardedDropPath(0.1, BatchShard(8, processes=Processes(size=2)), device).train()
    with _Copies():
        assert skip(torch.empty(4, 2, 2, 3, device=device)).shape == (4, 2, 2, 3)


def test_what_waits_or_copies_is_seen(models: tuple[BHViT, BHViT], device: torch.device) -> None:
    tensor = torch.ones(1, device=device)
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense|meta tensors"):
        bool(tensor == 0)
    with pytest.raises(AssertionError, match="across devices"), _Copies():
        torch.ones(1).to(device)
    model, teacher = models
    block: Any = model.stages[0]
    quantizer = block[0].mixer.attention.quantizer
    with _disable_current_modes():
        quantizer.initialised.zero_()  # written by another than the quantiser, which then has to look
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense|meta tensors"):
        _train_two_steps(model, teacher, device)
