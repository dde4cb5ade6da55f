"""Names of the published BHViT and BinaryViT weights, mapped to ours.

Some of theirs are historical.

Ours are the field's words. One table serves both directions.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...spec.model import ModelSpec, StageSpec

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LAYER_NORM = ("weight", "bias")
_RPRELU = {"shift_in": "move1", "slope": "prelu.weight", "shift_out": "move2"}
_SCALE = {"scale": "alpha", "shift": "move"}
_QUANTIZERS = {
    "decomposition": {
        "step": "att_prob_quantizer.alpha",
        "offset": "att_prob_quantizer.zero_point",
        "initialised": "att_prob_quantizer.init_state",
    },
    "gsb": {"scale": "att_prob_clip", "scale2": "att_prob_clip2", "scale3": "att_prob_clip3"},
    "one_bit": {"scale": "att_prob_clip"},
}


def is_binaryvit(spec: ModelSpec) -> bool:
    """Whether a spec is a BinaryViT: pooled attention in every stage."""
    return all(stage.mixer == "pooled_attention" for stage in spec.stages)


def published_names(spec: ModelSpec) -> dict[str, str]:
    """Our state-dict names -> the published ones, for every entry of a model of `spec`."""
    return _Names(spec).all()


class _Names:
    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.names: dict[str, str] = {}

    def all(self) -> dict[str, str]:
        spec, family = self.spec, "binaryvit" if is_binaryvit(self.spec) else "bhvit"
        stem = "vit.embeddings.patch_embeddings"
        self._group("stem.conv", stem + (".projection" if family == "binaryvit" else ".proj"), ("weight", "bias"))
        self._norm("stem.norm", "vit.embeddings.norm" if family == "binaryvit" else f"{stem}.norm")
        self.names["stem.position"] = "vit.embeddings.position_embeddings"
        counts = {"layer": 0, "layerA": 0, "layerB": 0}
        for index, stage in enumerate(spec.stages):
            if index:
                self._downsample(f"downsamples.{index - 1}", f"vit.encoder.patch_embed{index}")
            kind = "layer" if family == "binaryvit" else "layerA" if stage.mixer == "conv" else "layerB"
            for number in range(stage.depth):
                self._block(f"stages.{index}.{number}", f"vit.encoder.{kind}.{counts[kind]}", stage)
                counts[kind] += 1
        self._norm("head.norm", "vit.layernorm")
        self._group("head.linear", "classifier", ("weight", "bias"))
        return self.names

    def _group(self, ours: str, theirs: str, leaves: Mapping[str, str] | tuple[str, ...]) -> None:
        pairs = leaves.items() if isinstance(leaves, Mapping) else zip(leaves, leaves)
        self.names |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in pairs}

    def _norm(self, ours: str, theirs: str) -> None:
        self._group(ours, theirs, _BATCH_NORM if self.spec.norm == "batch" else _LAYER_NORM)

    def _block(self, ours: str, theirs: str, stage: StageSpec) -> None:
        self._norm(f"{ours}.mixer_norm", f"{theirs}.layernorm_before")
        self._norm(f"{ours}.mlp_norm", f"{theirs}.layernorm_after")
        if stage.mixer == "conv":
            self._conv_mixer(f"{ours}.mixer", f"{theirs}.GC")
        else:
            self._attention(f"{ours}.mixer", f"{theirs}.attention", stage)
        self._unit(f"{ours}.mlp", f"{theirs}.intermediate", "1")
        self._unit(f"{ours}.mlp", f"{theirs}.output", "2")
        self._group(f"{ours}.mlp.scale", f"{theirs}.output.layerscale", _SCALE)
        parts = {"h": "h", "w": "w"} | ({"c": "ch"} if self.spec.branches == "shift" else {})
        for width in self.spec.shifts:
            for a, b in parts.items():
                self._group(f"{ours}.shift.scales.{a}{width}", f"{theirs}.layerscale_{b}{width}", _SCALE)

    def _unit(self, ours: str, theirs: str, number: str = "") -> None:
        """A binary linear layer with its move, norm and activation."""
        self.names[f"{ours}.move{number}.bias"] = f"{theirs}.move"
        self.names[f"{ours}.linear{number}.weight"] = f"{theirs}.dense.weight"
        self._norm(f"{ours}.norm{number}", f"{theirs}.norm")
        self._group(f"{ours}.activation{number}", f"{theirs}.rprelu", _RPRELU)

    def _conv_mixer(self, ours: str, theirs: str) -> None:
        self.names[f"{ours}.move.bias"] = f"{theirs}.move.bias"
        for i in range(3):
            self._group(f"{ours}.convs.{i}", f"{theirs}.cov{i + 1}", ("weight", "bias"))
            self._group(f"{ours}.activations.{i}", f"{theirs}.act{i + 1}", _RPRELU)
        self._norm(f"{ours}.norm", f"{theirs}.norm")

    def _attention(self, ours: str, theirs: str, stage: StageSpec) -> None:
        inner = f"{theirs}.attention"
        for role, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            self._projection(f"{ours}.attention.{role}", inner, role, letter)
            self.names[f"{ours}.attention.{role}.threshold.bias"] = f"{inner}.move{letter}2"
        if stage.activation_bits == 1:
            self._group(f"{ours}.attention.quantizer", inner, _QUANTIZERS[self.spec.attention])
        self._norm(f"{ours}.attention.norm", f"{inner}.norm_context")
        self._group(f"{ours}.attention.activation", f"{inner}.rprelu_context", _RPRELU)
        self._unit(f"{ours}.output", f"{theirs}.output")
        self._group(f"{ours}.output.scale", f"{theirs}.output.layerscale", _SCALE)
        if stage.mixer == "attention":
            self.names[f"{ours}.pool_mix"] = f"{inner}.token_FA.a1"
            self.names[f"{ours}.local_mix"] = f"{inner}.parm"
            self._group(f"{ours}.token_norm", f"{inner}.token_FA.norm", _LAYER_NORM)
        elif stage.key_pool > 1:
            self._projection(f"{ours}.reduction", inner, "reduction", "r", "norm_r")

    def _projection(self, ours: str, theirs: str, name: str, letter: str, norm: str | None = None) -> None:
        self.names[f"{ours}.move.bias"] = f"{theirs}.move{letter}"
        self.names[f"{ours}.linear.weight"] = f"{theirs}.{name}.weight"
        self._norm(f"{ours}.norm", f"{theirs}.{norm or f'norm{letter}'}")
        self._group(f"{ours}.activation", f"{theirs}.rprelu{letter}", _RPRELU)

    def _downsample(self, ours: str, theirs: str) -> None:
        self._norm(f"{ours}.norm_in", f"{theirs}.norm0")
        self.names[f"{ours}.conv.weight"] = f"{theirs}.proj.weight"
        self._norm(f"{ours}.norm", f"{theirs}.norm")
        self.names[f"{ours}.position"] = f"{theirs}.position_embeddings"
        if self.spec.downsample == "binary":
            self.names[f"{ours}.move.bias"] = f"{theirs}.move"
            self._group(f"{ours}.activation", f"{theirs}.rprelu", _RPRELU)
