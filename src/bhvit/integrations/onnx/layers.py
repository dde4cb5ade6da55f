"""Parts that ops share, as `format.arithmetic` has them: norms, activations, decisions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from ...bits import Floats
from ...format.arithmetic import NORM_EPS, numbers, untile
from ...format.file import PackedModel
from ...format.float_storage import scale_key
from ...format.op import Op
from .graph import Graph


class Layers(NamedTuple):
    """An op with its tensors and the graph that it is written into."""

    graph: Graph
    op: Op
    model: PackedModel

    def tensor(self, name: str, part: int | None = None) -> Any:
        """A tensor of the op, words or float32; `part` indexes its first axis."""
        tensor = self.model.tensor(self.op, name)
        return tensor if part is None else tensor[part]

    def stored(self, name: str, part: int | None = None) -> str:
        """The same as a constant of the graph."""
        return self.graph.constant(self.tensor(name, part), name)

    def position(self, height: int, width: int) -> str:
        """The position map, (H, W, C), in as few bytes as the file has it."""
        graph, stored = self.graph, self.model.tensors[f"{self.op.name}.position"]
        whole = graph.constant(stored.reshape(height, width, -1), "position")
        return self._widened(whole, "position")

    def classifier(self, outputs: int) -> str:
        """The weights of the head, (C, classes), likewise."""
        stored = self.model.tensors[f"{self.op.name}.weight"]
        return self._widened(self.graph.constant(untile(stored, outputs), "weight"), "weight")

    def _widened(self, constant: str, name: str) -> str:
        stored = self.model.tensors[f"{self.op.name}.{name}"]
        if stored.dtype == np.int8:
            scale = self.model.tensors[scale_key(f"{self.op.name}.{name}")]
            columns = untile(scale, self.op.attributes["classes"]) if scale.ndim == 3 else scale
            # Not DequantizeLinear: ONNX Runtime then rounds the activations that meet such weights to eight bits, too.
            scales = self.graph.constant(columns.reshape(-1), "scale")
            return self.graph.add("Mul", self.graph.add("Cast", constant, to=TensorProto.FLOAT), scales)
        return constant if stored.dtype == np.float32 else self.graph.add("Cast", constant, to=TensorProto.FLOAT)

    def layer_norm(self, v: str, scale: str, shift: str) -> str:
        """Normalise x over its last axis, and scale and shift it."""
        return self.graph.add("LayerNormalization", v, scale, shift, axis=-1, epsilon=NORM_EPS)

    def affine(self, v: str, scale: str, shift: str) -> str:
        """v * scale + shift, a product and a sum."""
        return self.graph.add("Add", self.graph.add("Mul", v, scale), shift)

    def norm(self, name: str, v: str) -> str:
        """The norm of the tensors name_scale and name_shift over the last axis."""
        scale, shift = self.stored(f"{name}_scale"), self.stored(f"{name}_shift")
        return self.layer_norm(v, scale, shift) if self.op.option("norm") == "layer" else self.affine(v, scale, shift)

    def prelu(self, v: str, slope: str) -> str:
        """Scale the negative values of x by a slope for each channel."""
        return self.graph.add("PRelu", v, slope)

    def activate(self, v: str, threshold: Floats) -> str:
        """Signs of v >= threshold, or v - threshold where activations are full precision."""
        graph, stored = self.graph, self.graph.constant(threshold, "threshold")
        if self.op.option("activations") == "float":
            return graph.add("Sub", v, stored)
        return graph.add("Where", graph.add("GreaterOrEqual", v, stored), graph.number(1), graph.number(-1))

    def matrix(self, tiles: Any, outputs: int, inputs: int, name: str) -> str:
        """Weights of a layer from its tiles, (inputs, outputs)."""
        weights = numbers(self.op, tiles, outputs, inputs)
        return self.weights(weights, name)

    def weights(self, weights: Floats, name: str) -> str:
        """Weights of any shape: signs, or numbers where weights are full precision."""
        if self.op.option("weights") == "float":
            return self.graph.constant(weights, name)
        return self.graph.signs(weights, name, self.op.option("activations") == "binary")

    def linear(
        self, v: str, names: str, part: int | None = None, threshold: Floats | None = None, shift: str = ""
    ) -> str:
        """`linear` of the program; `names` makes the names of the layer's tensors."""
        graph = self.graph
        if threshold is None:
            threshold = self.tensor(names.format("threshold"), part)
        scale = self.tensor(names.format("scale"), part)
        tiles = self.tensor(names.format("weight"), part)
        weights = self.matrix(tiles, len(scale), len(threshold), names.format("weight"))
        y = graph.add("MatMul", self.activate(v, threshold), weights)
        stored_scale = graph.constant(scale, names.format("scale"))
        offset = self.stored(shift or names.format("shift"), part)
        if self.op.option("norm") == "layer":
            scaled = graph.add("Mul", y, self.stored(names.format("weight_scale"), part))
            return self.layer_norm(scaled, stored_scale, offset)
        return self.affine(y, stored_scale, offset)
