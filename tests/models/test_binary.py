"""One answer to which layers are binary, and which latent weights their signs are taken of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bhvit.models import create_model
from bhvit.models.binary import binary_layers, has_binary_weights, latent_weight
from bhvit.models.layers import QuantConv2d, QuantLinear
from bhvit.packing.fold import stored_weight
from bhvit.train.flip_monitor import FlipMonitor


def test_full_precision_stages_have_no_binary_layers() -> None:
    model = create_model("bhvit_nano", num_classes=2, stages={1: {"weight_bits": 32}})
    names = [name for name, _ in binary_layers(model)]
    assert names
    # The downsampling into a stage has the stage's bits.
    assert not [name for name in names if name.startswith(("stages.1.", "downsamples.0."))]
    for name, module in model.named_modules():
        if isinstance(module, QuantConv2d | QuantLinear):
            assert has_binary_weights(module) == (name in names), name


@pytest.mark.parametrize("centre_conv_weights", [True, False])
def test_signs_are_those_of_the_forward_pass_wherever_they_are_asked_for(centre_conv_weights: bool) -> None:
    torch.manual_seed(0)
    model = create_model("bhvit_nano", num_classes=2, centre_conv_weights=centre_conv_weights)
    layers = dict(binary_layers(model))
    with torch.no_grad():
        for layer in layers.values():
            layer.weight += 0.01  # or centring would hardly matter
    kinds = {type(layer) for layer in layers.values()}
    assert kinds == {QuantConv2d, QuantLinear}
    flips = FlipMonitor(model).state()
    for name, layer in layers.items():
        centred = isinstance(layer, QuantLinear) or centre_conv_weights
        mean = layer.weight.mean(dim=tuple(range(1, layer.weight.ndim)), keepdim=True)
        expected = layer.weight - mean if centred else layer.weight
        torch.testing.assert_close(latent_weight(layer), expected)
        stored, _ = stored_weight(layer)
        positive = latent_weight(layer).detach() >= 0
        assert int((stored >= 0).sum()) == int(positive.sum())
        assert int(sum(int(byte).bit_count() for byte in flips[f"last.{name}"])) == int(positive.sum())


@pytest.mark.parametrize("centre_conv_weights", [True, False])
def test_the_report_shows_latent_weights_as_their_signs_are_taken(tmp_path: Path, centre_conv_weights: bool) -> None:
    import numpy as np

    from bhvit.data.dataset import open_dataset
    from bhvit.models import save_checkpoint
    from bhvit.report.weights import weight_findings

    pytest.importorskip("sklearn")
    stages = {stage: {"mixer": "conv"} for stage in range(3)}
    model = create_model("bhvit_nano", num_classes=10, stages=stages, centre_conv_weights=centre_conv_weights).eval()
    with torch.no_grad():
        for _, layer in binary_layers(model):
            layer.weight.fill_(0.7) if isinstance(layer, QuantConv2d) else layer.weight.zero_()
    save_checkpoint(model, tmp_path / "m.safetensors")
    found = weight_findings(tmp_path / "m.safetensors", open_dataset("digits", "test"))
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    for shares in found.latent.values():
        near = {float(np.round(middle, 1)) for middle in middles[shares > 0]}
        assert near == ({0.0} if centre_conv_weights else {0.0, 0.7})
