"""Published BHViT and BinaryViT weights: recognise, load, and give their names back."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...spec.mixers import Mixer
from ...spec.model import MAX_BLOCKS, AttentionQuantizer, ModelSpec, StageSpec
from ...spec.sizes import list_models, model_spec
from ..network import BHViT
from .files import as_weights, read_state, unwrap
from .names import is_binaryvit, published_names

Shapes = Mapping[str, tuple[int, ...]]

_HEAD_CHANNELS = 64
"""Channels of an attention head in every published size."""
_LISTED = 50
"""Names that an error's message lists at most."""
_MIXERS: dict[str, Mixer] = {"layer": "pooled_attention", "layerA": "conv", "layerB": "attention"}
_BLOCK = re.compile(r"vit\.encoder\.(layer|layerA|layerB)\.(0|[1-9]\d{0,5})\.(?=.)")
# Entries of a block, and the axis along which each has the block's channels or its hidden channels.
_CHANNELS = {
    "layernorm_before.weight": 0,
    "layernorm_after.weight": 0,
    "intermediate.move": 0,
    "output.norm.weight": 0,
    "output.dense.weight": 0,
    "intermediate.dense.weight": 1,
}
_HIDDEN = {
    "output.move": 0,
    "intermediate.norm.weight": 0,
    "intermediate.norm.bias": 0,
    "intermediate.dense.weight": 0,
    "output.dense.weight": 1,
}


class PublishedWeightsError(UserError):
    """Weights that are not those of the architecture they come nearest to.

    `problems` has a line for every name that is missing, unknown or of the wrong shape, and one for a block that is
    missing whole; the message, the first of them.
    """

    def __init__(self, spec: ModelSpec, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        super().__init__(f"not the weights of a {spec.name}: {'; '.join(problems[:_LISTED])}{more}")


def from_published(
    source: Mapping[str, Any] | str | Path,
    *,
    weight_bits: int | None = None,
    heads: Sequence[int] | None = None,
    recu: bool = False,
) -> BHViT:
    """Return the model in published weights, in evaluation mode.

    It is in double precision if the weights are, else in single.

    `source` is a state dict (tensors or arrays) or the path of a .pth or .safetensors file, as it is or in a
    trainer's wrapper, where "model" goes before "model_ema" and that before "state_dict"; the
    architecture is inferred from names and shapes alone. Three things leave no trace there:

    weight_bits: 1 or 32. Weights are taken to be binary where activations are, which the quantiser of the
        attention matrix tells, and full precision where they are not; say it for a model of one kind each.
    heads: attention heads of each stage, for sizes other than the published ones, which have 64 channels
        a head. The quantisation decomposition holds its heads, and needs no telling.
    recu: whether training used ReCU; it matters for further training, not for the outputs.

    Raises UserError if the file cannot be read or is of no published architecture, and
    PublishedWeightsError if names are missing, unknown or of the wrong shape: it lists them.
    """
    state = unwrap(read_state(source) if isinstance(source, str | Path) else source)
    tensors = {name: tensor for name, value in state.items() if (tensor := as_weights(value)) is not None}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not any(name.startswith("vit.") for name in tensors):
        raise UserError(
            "the names are those of published weights, but none holds a tensor; NumPy arrays in a pickle are not read: "
            "save {name: torch.from_numpy(array)} instead"
        )
    spec = infer_spec(shapes, weight_bits=weight_bits, heads=heads, recu=recu)
    with torch.device("meta"):  # shapes without memory: hostile ones may ask for any amount
        expected = {name: tuple(tensor.shape) for name, tensor in to_published(BHViT(spec)).items()}
    problems = _missing(expected, state)
    problems += [
        f"{name} has shape {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [f"{name} is no array of real numbers" for name in state if name in expected and name not in tensors]
    if problems:
        raise PublishedWeightsError(spec, problems)
    model = BHViT(spec)
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        model.double()
    own = model.state_dict()
    names = published_names(spec)
    model.load_state_dict({ours: _to_ours(ours, tensors[names[ours]], own[ours].shape, spec) for ours in own})
    return model.eval()


def _missing(expected: Iterable[str], state: Iterable[str]) -> list[str]:
    """Return a line for each expected name or whole block that is missing."""
    there = set(state)
    blocks = {match[0] for name in there if (match := _BLOCK.match(name))}
    whole = collections.Counter(m[0] for name in expected if (m := _BLOCK.match(name)) and m[0] not in blocks)
    lines = [f"{block.rstrip('.')} is missing, all {count} names" for block, count in whole.items()]
    names = (name for name in expected if name not in there)
    return lines + [f"{name} is missing" for name in names if not ((m := _BLOCK.match(name)) and m[0] in whole)]


def to_published(model: BHViT) -> dict[str, Tensor]:
    """The state dict of `model` under the published names and shapes; `from_published` takes it back.

    Raises UserError for a model with a mixer that no published one has.
    """
    for stage in model.spec.stages:
        if stage.mixer not in _MIXERS.values():
            raise UserError(f"{model.spec.name} has no published names: its mixer {stage.mixer!r} is ours alone")
    state = model.state_dict()
    return {theirs: _to_theirs(ours, state[ours], model.spec) for ours, theirs in published_names(model.spec).items()}


def infer_spec(
    shapes: Shapes, *, weight_bits: int | None = None, heads: Sequence[int] | None = None, recu: bool = False
) -> ModelSpec:
    """The architecture that published weights of these names and shapes come nearest to.

    No entry decides alone, so that one which is missing, strange or of the wrong shape is found by comparing
    with the whole. Raises UserError if nothing comes near.
    """
    blocks = list(_blocks(shapes))
    if not blocks:
        raise UserError("not published BHViT or BinaryViT weights: no block under vit.encoder")
    binaryvit = blocks[0].kind == "layer"
    if not any(name.startswith("vit.encoder.patch_embed") for name in shapes):
        raise UserError("weights of a plain vision transformer: BHViT's and BinaryViT's have vit.encoder.patch_embed1")
    attentions = [block for block in blocks if block.kind != "layerA"]
    quantiser = _quantiser(shapes, len(attentions), binaryvit)
    activation_bits = 32 if quantiser is None else 1
    weight_bits = activation_bits if weight_bits is None else weight_bits
    stages = _stages(blocks, heads, weight_bits, activation_bits)
    projection = shapes.get(f"vit.embeddings.patch_embeddings.{'projection' if binaryvit else 'proj'}.weight", ())
    _, in_chans, patch, _ = projection if len(projection) == 4 else (0, 3, 4, 4)
    binary_downsampling = {
        match[1] for name in shapes if (match := re.match(r"vit\.encoder\.patch_embed(\d+)\.(?:move$|rprelu\.)", name))
    }
    spec = ModelSpec(
        name="binaryvit" if binaryvit else "bhvit",
        img_size=_img_size(shapes, patch, len(stages), binaryvit),
        in_chans=in_chans,
        num_classes=_vote(shapes, {"classifier.weight": 0, "classifier.bias": 0}) or 1000,
        patch=patch,
        stages=stages,
        downsample="binary" if 2 * len(binary_downsampling) >= len(stages) - 1 else "float",
        shifts=tuple(w for w in (3, 5) if _count(shapes, rf".*\.layerscale_[hw]{w}\..*") > 2 * len(blocks)),
        branches="pool" if binaryvit else "shift",
        norm="batch" if _count(shapes, r".*\.running_var") > len(blocks) else "layer",
        attention=quantiser or ("one_bit" if binaryvit else "decomposition"),
        stem_activation="none" if binaryvit else "gelu",
        centre_conv_weights=not binaryvit,
        recu=recu,
    )
    return _named(spec)


@dataclasses.dataclass(frozen=True)
class _Block:
    kind: str
    channels: int
    hidden: int
    entries: Shapes


def _blocks(shapes: Shapes) -> Iterator[_Block]:
    """The blocks in order.

    One that is missing is taken to be like its neighbour, so that the comparison with the
    whole lists its names.
    """
    entries: dict[tuple[str, int], dict[str, tuple[int, ...]]] = collections.defaultdict(dict)
    for name, shape in shapes.items():
        if match := _BLOCK.match(name):
            entries[match[1], int(match[2])][name[match.end() :]] = shape
    for kind in _MIXERS:
        blocks = {}
        for (other, number), own in entries.items():
            channels, hidden = _vote(own, _CHANNELS), _vote(own, _HIDDEN)
            if other == kind and number < MAX_BLOCKS and channels is not None and hidden is not None:
                blocks[number] = _Block(kind, channels, hidden, own)
        if blocks:
            like = blocks[min(blocks)]
            for number in range(max(blocks) + 1):
                like = blocks.get(number) or dataclasses.replace(like, entries={})
                yield like


def _stages(
    blocks: Sequence[_Block], heads: Sequence[int] | None, weight_bits: int, activation_bits: int
) -> tuple[StageSpec, ...]:
    groups = [list(group) for _, group in itertools.groupby(blocks, lambda block: (block.kind, block.channels))]
    if heads is not None and len(heads) != len(groups):
        raise UserError(f"heads must be {len(groups)} numbers, one for each stage, not {len(heads)}")
    stages = []
    for index, members in enumerate(groups):
        first = members[0]
        reductions = sum(_count(block.entries, r".*\.(mover|reduction\.weight|norm_r\..*)") for block in members)
        stages.append(
            StageSpec(
                depth=len(members),
                channels=first.channels,
                hidden=_most(block.hidden for block in members) or first.hidden,
                mixer=_MIXERS[first.kind],
                heads=1 if first.kind == "layerA" else heads[index] if heads is not None else _heads(members),
                # BinaryViT pools what is more than its last grid but one down to its last: 8, 4, 1, 1.
                key_pool=2 ** (len(groups) - 1 - index) if reductions > len(members) else 1,
                weight_bits=weight_bits,
                activation_bits=activation_bits,
            )
        )
    return tuple(stages)


def _heads(blocks: Sequence[_Block]) -> int:
    quantiser = "attention.attention.att_prob_quantizer"
    shapes = (block.entries.get(f"{quantiser}.{leaf}", ()) for leaf in ("alpha", "zero_point") for block in blocks)
    return _most(shape[0] for shape in shapes if shape) or max(1, blocks[0].channels // _HEAD_CHANNELS)


def _quantiser(shapes: Shapes, blocks: int, binaryvit: bool) -> AttentionQuantizer | None:
    """Infer the attention quantiser of most `blocks`; None in full-precision models."""
    decomposed = _count(shapes, r".*\.att_prob_quantizer\..*")
    scales = _count(shapes, r".*\.att_prob_clip[23]?")
    if 2 * max(decomposed, scales) < blocks or not blocks:
        return None
    return "one_bit" if binaryvit else "decomposition" if decomposed > scales else "gsb"


def _img_size(shapes: Shapes, patch: int, stages: int, binaryvit: bool) -> tuple[int, int]:
    """Infer the image size in pixels from the tokens of most position maps.

    Those of BinaryViT and of later grids tell no edges.
    """
    stem = shapes.get("vit.embeddings.position_embeddings", ())
    grid = stem[1:2] if binaryvit else stem[2:]
    counts = [math.prod(grid)] if len(stem) == (3 if binaryvit else 4) else []
    for stage in range(1, stages):
        later = shapes.get(f"vit.encoder.patch_embed{stage}.position_embeddings", ())
        counts += [later[1] * 4**stage] if len(later) == 3 else []
    tokens = _most(counts)
    if tokens is None:
        raise UserError("not published BHViT or BinaryViT weights: vit.embeddings.position_embeddings is missing")
    if len(grid) == 2 and math.prod(grid) == tokens:
        return grid[0] * patch, grid[1] * patch
    edge = math.isqrt(tokens)
    if edge * edge != tokens:
        raise UserError(f"position maps of {tokens} tokens are of no square grid, and do not tell which other")
    return edge * patch, edge * patch


def _vote(shapes: Shapes, axes: Mapping[str, int]) -> int | None:
    """Return the commonest size of the entries in `axes`; None without entries."""
    return _most(shapes[name][axis] for name, axis in axes.items() if len(shapes.get(name, ())) > axis)


def _most(values: Iterator[int] | Sequence[int]) -> int | None:
    common = collections.Counter(values).most_common(1)
    return common[0][0] if common else None


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in shapes)


def _named(spec: ModelSpec) -> ModelSpec:
    """`spec` under the registered name of its stages, if there is one."""
    for name in list_models():
        known = model_spec(name)
        same = all(getattr(known, field) == getattr(spec, field) for field in ("stages", "downsample", "branches"))
        if same:
            return dataclasses.replace(spec, name=name)
    return spec


def _to_ours(ours: str, tensor: Tensor, shape: torch.Size, spec: ModelSpec) -> Tensor:
    """A published tensor as ours: position maps are (H, W, C) grids, per-channel parameters flat."""
    if ours == "stem.position" and not is_binaryvit(spec):
        return tensor[0].permute(1, 2, 0)
    return tensor.reshape(shape)


def _to_theirs(ours: str, tensor: Tensor, spec: ModelSpec) -> Tensor:
    if ours == "stem.position":
        return tensor.flatten(0, 1)[None] if is_binaryvit(spec) else tensor.permute(2, 0, 1)[None].contiguous()
    if ours.endswith(".position"):
        return tensor.flatten(0, 1)[None]
    if ours.endswith("pool_mix"):
        return tensor.view(1, 1, -1)
    conv_move = ours.endswith("mixer.move.bias") or (ours.startswith("downsamples") and ours.endswith("move.bias"))
    return tensor.view(1, -1, 1, 1) if conv_move or ours.endswith("local_mix") else tensor
