"""What each option of training computes, compared with a separate computation."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from bhvit.data.dataset import open_dataset
from bhvit.data.metrics import Metrics
from bhvit.errors import UserError
from bhvit.image import Preprocess
from bhvit.models import create_model, load_checkpoint
from bhvit.train import TrainConfig, train
from bhvit.train.augment import Mixing, draw_boxes, erased, seed_for
from bhvit.train.context import RunContext
from bhvit.train.distributed import BatchShard, Processes
from bhvit.train.ema import ModelEma
from bhvit.train.loader import Batches
from bhvit.train.loop import _Run
from bhvit.train.losses import oscillation_loss, total_loss
from bhvit.train.optim import make_optimizer, set_learning_rate
from bhvit.train.phase import Phase
from bhvit.train.run_data import open_run_data

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("small", num_classes=2, img_size=8, patch=2)


def batches_of(config):
    return Batches(open_dataset(config.data), Preprocess(size=(8, 8), crop=1.0), config, CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9},
        {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
        {"rand_augment": 9, "workers": 0},
        {"augment": "resized-crop", "rand_augment": 9, "workers": 0, "channels": 1},
        {"erase": 0.5},
        {"repeats": 4},
        {"accumulate": 2},
        {"weight_decay": 0.05},
        {"dampening": 1e-3},
    ],
)
def test_every_option_trains_and_twice_to_the_same_bits(config, tmp_path, changes):
    runs = [train(config(epochs=1, out=str(tmp_path / out), **changes), quiet=True) for out in ("first", "second")]
    assert math.isfinite(runs[0].log[0]["train_loss"])
    first, second = (load_checkpoint(run.last).state_dict() for run in runs)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_accumulated_gradients_are_those_of_the_whole_batch(config):
    # Without batch statistics, and without quantisers that take their first values from the first part.
    changes = {"norm": "layer", "activation_bits": 32, "drop_path": 0.0, "regularisation": 0.1}
    gradients = []
    for parts in (1, 2, 4):
        run = _Run(config(accumulate=parts, **changes), Processes(), resume=False, force=False, quiet=True)
        outcome = run._step(next(run.phase.batches.drawn(0)), 0, 0)
        gradients.append([outcome, *(parameter.grad for parameter in run.phase.model.parameters())])
        tensors = [parameter.grad for parameter in run.phase.model.parameters()]
        addresses = {tensor.data_ptr() for tensor in tensors if tensor is not None}
        assert len(addresses) == len(tensors)  # what is added or clipped in place is changed once
    for other in gradients[1:]:
        for first, second in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-6)


def test_the_average_is_that_of_the_weights_and_its_statistics_are_its_own(config, model):
    settings = config(ema=0.6, ema_batches=3)
    average = ModelEma(model, settings)
    expected = None
    for step in range(1, 5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        average.update(model, average.weight(step))
        weight = model.stem.conv.weight.detach().double()
        decay = 0.0 if step == 1 else min(0.6, 1 - step ** (-2 / 3))
        expected = weight.clone() if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.module.stem.conv.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(average.module.get_buffer("stages.0.0.mixer_norm.running_mean"), torch.zeros(64))
    batches = batches_of(settings)
    average.measure(batches, 2, torch.autocast("cpu", enabled=False))
    outputs = [average.module.stem.conv(images).double() for images, _ in batches.epoch(2, stop=3)]
    mean = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs]).mean(dim=0)
    torch.testing.assert_close(average.module.stem.norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    assert not average.module.training
    assert torch.equal(model.stem.norm.running_mean, torch.zeros(64))


def test_the_average_is_what_is_saved_and_evaluated(config, tmp_path):
    averaged = train(config(epochs=1, ema=0.999, out=str(tmp_path / "ema")), quiet=True)
    plain = train(config(epochs=1, out=str(tmp_path / "plain")), quiet=True)
    assert averaged.log[0]["train_loss"] == plain.log[0]["train_loss"]
    first, second = (load_checkpoint(run.last) for run in (averaged, plain))
    assert not torch.equal(first.stem.conv.weight, second.stem.conv.weight)
    images = open_run_data(config(), RunContext(device=CPU, quiet=True))
    assert images.pixels is not None
    assert isinstance(averaged.metrics, Metrics)
    logits = first(torch.from_numpy(images.preprocess.normalize(images.pixels)))
    np.testing.assert_allclose(averaged.metrics.logits, logits.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_early_blocks_have_smaller_rates(config, model):
    optimizer = make_optimizer(model, config(layer_decay=0.5, weight_decay=0.1))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    stem, first, down, second, head = (
        rate[id(p)]
        for p in (
            model.stem.conv.weight,
            model.stages[0][0].mlp.linear1.weight,
            model.downsamples[0].conv.weight,
            model.stages[1][0].mlp.linear1.weight,
            model.head.linear.weight,
        )
    )
    assert stem < first < second <= head == 1.0
    assert stem < down <= second
    assert decay[id(model.head.linear.weight)] == 0.1
    assert decay[id(model.head.linear.bias)] == 0.0


def test_repeated_images_come_together_and_fill_as_many_batches(config):
    plain, repeated = batches_of(config(augment="none", flip=False)), batches_of(config(repeats=4))
    assert repeated.steps == plain.steps
    _, labels = next(repeated.epoch(0))
    assert torch.equal(labels.view(2, 4), labels[::4, None].expand(2, 4))
    still = batches_of(config(repeats=4, augment="none", flip=False))
    images, _ = next(still.epoch(0))
    assert torch.equal(images[0], images[3])
    cropped = batches_of(config(repeats=4, augment="resized-crop", workers=0))
    images, _ = next(cropped.epoch(0))
    assert not torch.equal(images[0], images[1])


def test_rand_augment_does_not_depend_on_workers(config):
    changes = {"rand_augment": 9, "augment": "none", "flip": False}
    alone, helped = (list(batches_of(config(**changes, workers=n)).epoch(1, stop=2)) for n in (0, 1))
    plain = list(batches_of(config(augment="none", flip=False)).epoch(1, stop=2))
    for (first, _), (second, _), (untouched, _) in zip(alone, helped, plain, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, untouched)


def test_erasing_erases_as_often_as_it_says():
    images = erased(torch.ones(400, 3, 16, 16), **draw_boxes(0.25, (3, 16, 16), 7, BatchShard(400)))
    touched = (images == 0).flatten(1).any(dim=1)
    assert 70 < int(touched.sum()) < 130
    share = (images[touched] == 0).double().mean(dim=(1, 2, 3))
    assert share.min() > 0.0
    assert share.max() < 0.45


def test_mixed_labels_are_those_of_the_pixels(config):
    images = torch.arange(8.0)[:, None, None, None].expand(8, 3, 8, 8).contiguous()
    labels = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1])
    for settings in (config(mixup=1.0), config(cutmix=1.0)):
        mixing = Mixing(settings, settings.label_smoothing, 2)
        mixed, targets = mixing.apply(images, labels, **mixing.draw((8, 8), 3))
        share = (mixed.mean(dim=(1, 2, 3)) - images.flip(0)[:, 0, 0, 0]) / (images - images.flip(0))[:, 0, 0, 0]
        hot = torch.eye(2)
        expected = share[:, None] * hot[labels] + (1 - share[:, None]) * hot[labels.flip(0)]
        torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-5)
        again, _ = mixing.apply(images, labels, **mixing.draw((8, 8), 3))
        assert torch.equal(mixed, again)


@pytest.mark.parametrize("changes", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixing_is_timms(config, changes):
    from timm.data import Mixup

    settings = config(**changes, label_smoothing=0.1)
    mixing = Mixing(settings, settings.label_smoothing, 5)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 10, 14, generator=generator)
    labels = torch.randint(0, 5, (8,), generator=generator)
    state = np.random.get_state()  # noqa: NPY002 (the generator that timm draws from)
    try:
        for seed in range(50):
            np.random.seed(seed)  # noqa: NPY002
            theirs = Mixup(settings.mixup, settings.cutmix, label_smoothing=0.1, num_classes=5)(images.clone(), labels)
            ours = mixing.apply(images, labels, **mixing.draw((10, 14), seed))
            assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_erasing_is_torchvisions():
    from torchvision.transforms import RandomErasing

    shard = BatchShard(32)
    images = torch.randn(32, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    ours = erased(images.clone(), **draw_boxes(0.5, (3, 12, 16), 7, shard))
    eraser = RandomErasing(0.5, value=0)
    with torch.random.fork_rng():
        for row, (image, own) in enumerate(zip(images, ours)):
            torch.manual_seed(seed_for(7, row))
            assert torch.equal(eraser(image), own)
    assert not torch.equal(images, ours)


def test_the_published_rule_with_mixing_and_the_published_second_phase(config, model):
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, 4, 2, generator=generator)
    mixed = torch.rand(4, 1, generator=generator) * torch.tensor([[1.0, -1.0]]) + torch.tensor([[0.0, 1.0]])

    def entropy(targets):
        return -(targets.double() * logits.double().log_softmax(dim=1)).sum(dim=1).mean().item()

    settings = config(teacher="deit_small_patch16_224", distillation=0.9, mixup=0.8, label_smoothing=0.1)
    soft = teacher.double().softmax(dim=1)
    found = total_loss(settings, model, logits, mixed, teacher).item()
    assert found == pytest.approx(0.9 * entropy(soft) + 0.1 * entropy(mixed), rel=1e-5)
    settings = config(teacher="deit_small_patch16_224", distillation=0.9, label_weight=0.0, regularisation=0.1)
    from bhvit.models import regularisation_loss

    found = total_loss(settings, model, logits, torch.tensor([0, 1, 0, 1]), teacher).item()
    assert found == pytest.approx(0.9 * entropy(soft) + 0.1 * regularisation_loss(model).item(), rel=1e-5)


def test_dampening_draws_latent_weights_to_their_binary_value(config, model):
    expected = 0.0
    for name, weight in model.named_parameters():
        if (".convs." in name and name.endswith("weight")) or (".linear" in name and "head" not in name):
            w = weight.detach().double().numpy()
            rows = w.reshape(len(w), -1)
            scale = np.abs(rows).mean(axis=1, keepdims=True)
            rows = rows - rows.mean(axis=1, keepdims=True)
            inside = np.clip(rows, -scale, scale)
            expected += ((np.where(rows >= 0, scale, -scale) - inside) ** 2).sum()
        elif "downsamples" in name and name.endswith("conv.weight"):
            rows = weight.detach().double().numpy().reshape(len(weight), -1)
            scale = np.abs(rows).mean(axis=1, keepdims=True)
            rows = rows - rows.mean(axis=1, keepdims=True)
            expected += ((np.where(rows >= 0, scale, -scale) - np.clip(rows, -scale, scale)) ** 2).sum()
    loss = oscillation_loss(model)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    weight = model.stages[0][0].mlp.linear1.weight
    before = oscillation_loss(model).item()
    with torch.no_grad():
        weight -= 0.1 * weight.grad
    assert oscillation_loss(model).item() < before
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    losses = [total_loss(config(dampening=1.0), model, logits, labels, None, at).item() for at in (0.0, 0.5, 1.0)]
    assert losses[0] == pytest.approx(math.log(2))
    assert losses[1] - losses[0] == pytest.approx((losses[2] - losses[0]) / 2, rel=1e-4)


def test_what_options_cannot_be(settings):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"rand_augment": 31}, "at most 30"),
        ({"layer_decay": 1.5}, "at most 1"),
        ({"accumulate": 8}, "8 parts is less than 2 images"),
        ({"label_weight": 0.5}, "no effect without a teacher"),
        ({"teacher_outputs": "kept"}, "no effect without a teacher"),
        ({"teacher_outputs": "kept", "teacher": "resnet18", "mixup": 0.8}, "which mixup changes"),
        (
            {"teacher_outputs": "kept", "teacher": "resnet18", "augment": "resized-crop"},
            "which augment=resized-crop changes",
        ),
        ({"repeats": 0}, "at least 1"),
        ({"mixup": -1.0}, "at least 0"),
        ({"threads": 257}, "threads must be at most 256"),
        ({"workers": 100_000}, "workers must be at most 256"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            TrainConfig.from_dict({**settings, **changes})


def test_a_phase_on_one_process_is_its_model(config):
    settings = config()
    context = RunContext(device=CPU, quiet=True)
    phase = Phase(settings, open_run_data(settings, context), None, context)
    assert phase.network is phase.model is phase.result


def test_the_log_is_there_for_tensorboard(config, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped,unused-ignore]
        EventAccumulator,
    )

    result = train(config(epochs=2, out=str(tmp_path / "run"), tensorboard=True), quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    logged = {scalar.step: scalar.value for scalar in events.Scalars("val_loss")}
    assert logged == {line["epoch"]: pytest.approx(line["val_loss"]) for line in result.log}
    layer = next(iter(result.log[1]["flipped"]))
    assert [scalar.step for scalar in events.Scalars(f"flipped/{layer}")] == [1, 2]
    assert [scalar.step for scalar in events.Scalars(f"oscillating/{layer}")] == [2]


def test_tensorboard_that_is_absent_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"with the extra 'tensorboard', for example pip install '\.\[tensorboard\]'"):
        train(config(epochs=1, out=str(tmp_path / "run"), tensorboard=True), quiet=True)
    assert not (tmp_path / "run").exists()
