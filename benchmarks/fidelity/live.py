"""Our model against the published code itself, both in float64 on one input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bhvit.models import BHViT, from_published, to_published
from bhvit.models.published.names import published_names
from golden import synthetic

from .published_code import build

NOISE = 1e-12
"""Gradients this far below the largest are zero but for rounding: that of a bias before batch statistics, say."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The worst relative differences of one comparison."""

    logits: float
    blocks: float
    loss: float
    gradients: float
    """Norm of the difference over the norm, of the worst parameter."""
    sums: float
    """Difference of the sums of a parameter's gradient, over the larger of sum and norm: some sums cancel."""
    state: float
    """State dict after the pass under published names: statistics and initialised quantisers."""
    names: bool
    """Whether `to_published` gave names, shapes and values back before the pass."""


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest magnitude."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape}")
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), np.finfo(np.float64).tiny))


def compare(
    checkout: Path,
    name: str,
    *,
    switches: Mapping[str, Any],
    told: Mapping[str, Any],
    seed: int,
    batch: int = 1,
    training: bool = False,
) -> Difference:
    """Build the published model, fill it from names, and run both forward and backward.

    `told` is what `from_published` must be told in addition to the weights.
    """
    theirs = build(checkout, name, **switches).double()
    state = synthetic.state_dict({key: tuple(value.shape) for key, value in theirs.state_dict().items()}, seed)
    if training:  # quantisers of the attention matrix initialise themselves from the first batch
        state |= {key: np.zeros_like(value) for key, value in state.items() if key.endswith("init_state")}
    theirs.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
    ours = from_published(state, **told)
    names = same_names(to_published(ours), state)
    theirs.train(training)
    ours.train(training)

    images = torch.tensor(synthetic.images(batch, 224, seed))
    encoder = theirs.vit.encoder
    their_blocks = [*encoder.layerA, *encoder.layerB] if hasattr(encoder, "layerA") else list(encoder.layer)
    their_logits, their_tokens = _run(theirs, their_blocks, images)
    our_logits, our_tokens = _run(ours, [block for stage in ours.stages for block in stage], images)
    losses = []
    labels = their_logits.argmin(dim=1)  # full-precision logits are large: other labels may have no gradient left
    for logits in (our_logits, their_logits):
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        losses.append(loss.item())
    worst, sums = _compare_gradients(ours, theirs)
    after = to_published(ours)
    return Difference(
        logits=relative(our_logits.detach(), their_logits.detach()),
        blocks=max(relative(_grid(a, b), b) for a, b in zip(our_tokens, their_tokens, strict=True)),
        loss=relative(*losses),
        gradients=worst,
        sums=sums,
        state=max(relative(after[key], value) for key, value in theirs.state_dict().items()),
        names=names,
    )


def same_names(back: Mapping[str, Tensor], state: Mapping[str, Any]) -> bool:
    """Whether `back` holds the names, shapes and values of `state`, and no others."""
    return back.keys() == state.keys() and all(np.array_equal(back[key].numpy(), state[key]) for key in state)


def _run(model: nn.Module, blocks: list[nn.Module], images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what each block gives."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda _module, _inputs, output: seen.append((output[0] if isinstance(output, tuple) else output).detach())
        )
        for block in blocks
    ]
    output = model(images)
    for hook in hooks:
        hook.remove()
    return getattr(output, "logits", output), seen


def _grid(tokens: Tensor, like: Tensor) -> Tensor:
    """Our tokens (B, H, W, C) in the published layout: (B, C, H, W), or (B, N, C) in BinaryViT."""
    return tokens.permute(0, 3, 1, 2) if like.ndim == 4 else tokens.flatten(1, 2)


def _compare_gradients(ours: BHViT, theirs: nn.Module) -> tuple[float, float]:
    own = gradients(ours)
    published = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    if own.keys() != published.keys():
        raise ValueError(f"gradients of other names: {sorted(own.keys() ^ published.keys())[:4]}")
    floor = NOISE * max(g.norm().item() for g in published.values())
    pairs = [(own[key].reshape(g.shape), g) for key, g in published.items() if g.norm() > floor]
    return (
        max(((a - b).norm() / b.norm()).item() for a, b in pairs),
        max(((a.sum() - b.sum()).abs() / torch.maximum(b.sum().abs(), b.norm())).item() for a, b in pairs),
    )


def gradients(model: BHViT) -> dict[str, Tensor]:
    """Gradients under published names, elements in the published order; what has none is left out."""
    names = published_names(model.spec)
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    if model.spec.branches == "shift":
        found["stem.position"] = found["stem.position"].permute(2, 0, 1)
    return {names[key]: gradient for key, gradient in found.items()}
