"""An ONNX graph under construction: nodes, constants, and storage of binary weights."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...bits import Floats
from ...errors import UserError

WeightStorage = Literal["int8", "bits", "float32"]
OPSET = 17
"""The first with LayerNormalization."""
IR_VERSION = 8
"""The oldest that holds that operator set."""
MAX_BYTES = (1 << 31) - (1 << 20)
"""Constants of a model: a protocol buffer, with all that is around them, has less than 2 GiB."""
Array = npt.NDArray[Any]


class Graph:
    """Nodes in order, each with a named value; grids are (B, H, W, C)."""

    def __init__(self, weights: WeightStorage) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[bytes, str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._bytes = 0
        self.scope = ""
        """What the names of new nodes and constants begin with."""

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        return self.split(kind, *inputs, count=1, **attributes)[0]

    def split(self, kind: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Append a node with several outputs and return their names."""
        name = f"{self.scope}/{kind}_{len(self._nodes)}"
        outputs = [name if count == 1 else f"{name}.{index}" for index in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, value: npt.ArrayLike, name: str = "constant") -> str:
        """Store a tensor and return its name; equal ones are stored once.

        Raises UserError where all of them would be more than `MAX_BYTES`.
        """
        value = np.ascontiguousarray(value).reshape(np.shape(value))
        key = hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).digest()
        if key not in self._constants:
            self._bytes += value.nbytes
            if self._bytes > MAX_BYTES:
                raise UserError(
                    f"the model's weights would take more than {MAX_BYTES} bytes, which is all that an ONNX file "
                    "holds; stored as bits they take the least"
                )
            self._constants[key] = f"{self.scope}/{name}#{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(value, self._constants[key]))
        return self._constants[key]

    def number(self, value: float) -> str:
        """Store a float32 scalar."""
        return self.constant(np.float32(value), "number")

    def integers(self, *values: int) -> str:
        """Store whole numbers, such as a shape or axes."""
        return self.constant(np.array(values, np.int64), "integers")

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value whose first axis is the batch; `shape` is without it."""
        return self.add("Reshape", value, self.integers(0, *shape))

    def transpose(self, value: str, *axes: int) -> str:
        """Reorder the axes of a value."""
        return self.add("Transpose", value, perm=axes)

    def channels_first(self, value: str) -> str:
        """(B, H, W, C) -> (B, C, H, W)."""
        return self.transpose(value, 0, 3, 1, 2)

    def channels_last(self, value: str) -> str:
        """(B, C, H, W) -> (B, H, W, C)."""
        return self.transpose(value, 0, 2, 3, 1)

    def in_order(self, values: list[str]) -> str:
        """The sum of values, added one after the other, as the program states it."""
        total = values[0]
        for value in values[1:]:
            total = self.add("Add", total, value)
        return total

    def parts(self, value: str, sizes: list[int], axis: int = -1) -> list[str]:
        """Cut a value along an axis into parts of these sizes."""
        if len(sizes) == 1:
            return [value]
        return self.split("Split", value, self.integers(*sizes), count=len(sizes), axis=axis)

    def signs(self, weights: Floats, name: str, binary_inputs: bool = True) -> str:
        """Store weights of -1 and +1, of any shape, and return them as float32.

        With inputs of signs, runtimes may compute the product in eight bits, which is exact; otherwise they must not.
        """
        if self._weights == "float32":
            return self.constant(weights.astype(np.float32), name)
        if self._weights == "int8":
            whole = self.constant(weights.astype(np.int8), name)
            if not binary_inputs:
                return self.add("Cast", whole, to=TensorProto.FLOAT)
            return self.add("DequantizeLinear", whole, self.number(1), self.constant(np.int8(0), "zero"))
        # Eight to a byte, unpacked by operators on constants, which runtimes compute once when they load the graph.
        packed = np.packbits(weights.reshape(-1) > 0, bitorder="little")
        shifts = self.constant(np.arange(8, dtype=np.uint8), "shifts")
        shifted = self.add("BitShift", self.constant(packed[:, None], name), shifts, direction="RIGHT")
        bits = self.add("Mod", shifted, self.constant(np.uint8(2), "two"))
        flat = self.add("Reshape", bits, self.integers(-1))
        if packed.size * 8 != weights.size:
            flat = self.add("Slice", flat, self.integers(0), self.integers(weights.size))
        floats = self.add("Cast", self.add("Reshape", flat, self.integers(*weights.shape)), to=TensorProto.FLOAT)
        return self.add("Sub", self.add("Mul", floats, self.number(2)), self.number(1))

    def model(
        self, image: tuple[int, int, int], output: str, logits: tuple[int, ...], metadata: dict[str, str]
    ) -> bytes:
        """The bytes of the finished model: images (batch, C, H, W) -> logits (batch, …)."""
        self._nodes.append(helper.make_node("Identity", [output], ["logits"], name="logits"))
        graph = helper.make_graph(
            self._nodes,
            "bhvit",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *logits])],
            self._initializers,
        )
        model = helper.make_model(
            graph, producer_name="bhvit", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
