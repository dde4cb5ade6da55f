"""Signs that change from epoch to epoch."""

from __future__ import annotations

import torch

import bhvit
from bhvit.train.flip_monitor import FlipMonitor

NAME = "stages.0.0.mlp.linear1"


def test_fractions_of_signs_that_changed_and_came_back() -> None:
    model = bhvit.create_model("bhvit_nano", num_classes=2)
    weight = model.get_parameter(f"{NAME}.weight")
    with torch.no_grad():  # of mean zero in every row, so that centring changes nothing
        weight.copy_(torch.ones_like(weight))
        weight[:, ::2] = -1
    monitor = FlipMonitor(model)
    assert monitor.measure()["flipped"][NAME] == 0
    with torch.no_grad():
        weight[:64] *= -1
    found = monitor.measure()
    assert found["flipped"][NAME] == 64 / 256
    assert found["oscillating"][NAME] == 0
    other = FlipMonitor(model)
    other.load(monitor.state())
    with torch.no_grad():
        weight[32:96] *= -1
    for one in (monitor, other):  # a resumed run goes on where the first was
        found = one.measure()
        assert found["flipped"][NAME] == 64 / 256
        assert found["oscillating"][NAME] == 32 / 256
        assert sum(found["flipped"].values()) == 64 / 256


def test_full_precision_layers_have_no_signs() -> None:
    assert FlipMonitor(bhvit.create_model("bhvit_nano", weight_bits=32)).measure() == {}
