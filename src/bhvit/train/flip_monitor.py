"""Sign flips of binary weights from epoch to epoch, by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..models.binary import binary_layers, latent_weight


class FlipMonitor:
    """Signs of a model's binary weights at the last two epochs' ends.

    The first are those that it begins with.

    Kept as packed bits, a 32nd of the weights each.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = dict(binary_layers(model))
        self._last = self._signs()
        self._before: dict[str, Tensor] = {}

    def measure(self) -> dict[str, dict[str, float]]:
        """Return the fractions of weights, by layer, that changed sign since the last call.

        "flipped": all of them. "oscillating": those that had changed it in the call before, too, and so came back.
        """
        now, last, before = self._signs(), self._last, self._before
        flipped, oscillating = {}, {}
        for name, layer in self._layers.items():
            changed = now[name] ^ last[name]
            flipped[name] = _ones(changed) / layer.weight.numel()
            if before:
                oscillating[name] = _ones(changed & (last[name] ^ before[name])) / layer.weight.numel()
        self._last, self._before = now, last
        found = {"flipped": flipped, "oscillating": oscillating}
        return {what: layers for what, layers in found.items() if layers}

    def state(self) -> dict[str, Tensor]:
        """State for `load`, stored with a checkpoint."""
        return {
            f"{when}.{name}": bits
            for when, signs in (("last", self._last), ("before", self._before))
            for name, bits in signs.items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`; without one, from the model's signs as they are."""
        self._last = {name: state[f"last.{name}"] for name in self._layers} if state else self._signs()
        self._before = {name: state[f"before.{name}"] for name in self._layers if f"before.{name}" in state}

    @torch.no_grad()
    def _signs(self) -> dict[str, Tensor]:
        signs: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            positive = latent_weight(layer) >= 0
            signs[name] = torch.from_numpy(np.packbits(positive.cpu().numpy()))
        return signs


def _ones(bits: Tensor) -> int:
    return int(np.unpackbits(bits.numpy()).sum())
