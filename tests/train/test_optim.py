"""Optimisers and schedules: the default is what it always was, every other one of timm's resumes exactly."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from timm.optim import list_optimizers
from torch import nn

from bhvit.errors import UserError
from bhvit.train import TrainConfig, train
from bhvit.train.optim import (
    NEED_OTHER_LOOPS,
    check_optimizer,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)
from bhvit.train.settings import OptimizerSettings, ScheduleSettings

OPTIMIZERS = [name for name in list_optimizers() if not name.startswith(NEED_OTHER_LOOPS)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        torch.manual_seed(number)
        set_learning_rate(optimizer, 1e-3 / (1 + number))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()


@pytest.mark.parametrize("opt", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_optimizer_goes_on_exactly_from_what_is_kept(opt: str) -> None:
    settings = OptimizerSettings(opt=opt, weight_decay=0.05)
    whole, half = network(), network()
    check_optimizer(settings, whole)
    first, second = make_optimizer(whole, settings), make_optimizer(half, settings)
    before = [parameter.clone() for parameter in whole.parameters()]
    steps(whole, first, range(4))
    assert any(not torch.equal(a, b) for a, b in zip(before, whole.parameters()))
    steps(half, second, range(2))
    tensors, numbers = optimizer_state(half, second)
    resumed = make_optimizer(half, settings)
    load_optimizer(
        half, resumed, {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(numbers))
    )
    steps(half, resumed, range(2, 4))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, half.get_parameter(name)), name


def test_the_default_is_fused_adamw_with_no_decay_of_vectors() -> None:
    ours, theirs = network(), network()
    optimizer = make_optimizer(ours, OptimizerSettings(weight_decay=0.1))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults == {**reference.defaults, "weight_decay": optimizer.defaults["weight_decay"]}
    steps(ours, optimizer, range(5))
    steps(theirs, reference, range(5))
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)), name
    assert optimizer_state(ours, optimizer)[1] == {}  # so that resume.safetensors is what it always was


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ("adamx", "no optimiser 'adamx'.*did you mean adam"),
        ("adahessian", "no optimiser 'adahessian' for training; it needs another loop"),
        ("lookahead_adam", "no optimiser 'lookahead_adam'"),
        ("bnbadam", "it needs another loop"),
    ],
)
def test_an_optimizer_that_cannot_train_is_refused(opt: str, message: str, config: Any) -> None:
    with pytest.raises(UserError, match=message):
        train(config(opt=opt), quiet=True)


SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({}, lambda step: 1.0),
    "step": ({"decay_epochs": 2, "decay_rate": 0.5}, lambda step: 0.5 ** (step // 10)),
    "multistep": (
        {"decay_milestones": (1, 3), "decay_rate": 0.1},
        lambda step: 0.1 ** ((step >= 5) + (step >= 15)),
    ),
    "poly": ({"decay_rate": 2.0, "min_lr": 0.1}, lambda step: 0.1 + 0.9 * (1 - step / 40) ** 2),
    "tanh": ({"min_lr": 0.1}, lambda step: 0.1 + 0.45 * (1 - math.tanh(-7 * (1 - step / 40) + 3 * step / 40))),
    "cosine": ({"min_lr": 0.1}, lambda step: 0.1 + 0.45 * (1 + math.cos(math.pi * step / 40))),
}


@pytest.mark.parametrize("sched", SCHEDULES)
def test_a_schedule_follows_its_formula_after_the_warm_up(sched: str) -> None:
    changes, expected = SCHEDULES[sched]
    settings = ScheduleSettings(epochs=10, lr=1.0, warmup_epochs=2, sched=sched, **changes)  # type: ignore[arg-type]
    rates = [learning_rate(settings, step, 5) for step in range(50)]
    assert rates[:10] == [(step + 1) / 10 for step in range(10)]
    assert rates[10:] == pytest.approx([expected(step) for step in range(40)], rel=1e-6)
    # A function of the step alone: in any order, and next to another schedule.
    learning_rate(ScheduleSettings(epochs=3, lr=0.5, sched="tanh"), 7, 5)
    assert [learning_rate(settings, step, 5) for step in reversed(range(50))] == rates[::-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sched": "linear"}, "sched must be one of cosine"),
        ({"sched": "multistep"}, "sched=multistep and decay_milestones"),
        ({"decay_milestones": [1, 2]}, "sched=multistep and decay_milestones"),
        ({"sched": "multistep", "decay_milestones": [3, 2]}, "rising epochs"),
        ({"sched": "multistep", "decay_milestones": [0, 2]}, "rising epochs"),
        ({"sched": "multistep", "decay_milestones": "3"}, "a list of whole numbers"),
        ({"decay_epochs": 0}, "decay_epochs must be above 0"),
        ({"decay_rate": -1}, "decay_rate must be at least 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
    ],
)
def test_what_a_schedule_cannot_be(changes: dict[str, Any], message: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**settings, **changes})


@pytest.mark.parametrize("opt", ["sgd", "lamb", "nadamw"])
def test_a_run_with_another_optimizer_resumes_to_the_same_weights(
    opt: str, config: Any, kill: Any, tmp_path: Any
) -> None:
    changes = {"opt": opt, "sched": "step", "decay_epochs": 1, "epochs": 2}
    whole = train(config(**changes, out=str(tmp_path / "whole")), quiet=True)
    cut = config(**changes, out=str(tmp_path / "cut"), save_minutes=1e-9)
    kill(cut, "_step", 8)
    resumed = train(cut, resume=True, quiet=True)
    assert whole.last.read_bytes() == resumed.last.read_bytes()
    assert whole.log[1]["lr"] == pytest.approx(whole.log[0]["lr"] / 10)


def test_betas_and_eps_reach_the_optimizer() -> None:
    optimizer = make_optimizer(network(), OptimizerSettings(opt_betas=(0.8, 0.95), opt_eps=1e-6))
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.95), 1e-6)}
    with pytest.raises(UserError, match="opt_betas has no effect: the optimiser sgd has no betas"):
        check_optimizer(OptimizerSettings(opt="sgd", opt_betas=(0.8, 0.95)), network())
    with pytest.raises(UserError, match="cannot make the optimiser adamw"):
        check_optimizer(OptimizerSettings(opt_betas=(0.8,)), network())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opt_betas": [0.9, 1.0]}, "opt_betas must be at least 0 and below 1"),
        ({"opt_betas": 0.9}, "opt_betas must be a list of numbers, not 0.9"),
        ({"opt_betas": [0.9, True]}, "opt_betas must be a list of numbers"),
        ({"opt_eps": 0}, "opt_eps must be above 0"),
        ({"opt_eps": float("inf")}, "opt_eps must be above 0"),
        ({"sched": "cosin"}, "sched must be one of cosine, tanh"),
        ({"betas": [0.9, 0.99]}, "did you mean opt_betas"),
        ({"eps": 1e-6}, "did you mean opt_eps"),
    ],
)
def test_impossible_arguments_of_optimizers_are_refused(changes: dict[str, Any], message: str, settings: Any) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig.from_dict({**settings, **changes})
