"""Networks of other kinds as ONNX files: exported, quantised to int8, and run by the engines that users have.

Needs onnx, onnxscript, onnxruntime and, for `openvino`, openvino in addition to the development environment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bhvit.data.metrics import Floats


def export(model: nn.Module, target: Path, size: tuple[int, int], *, any_batch: bool = False) -> None:
    """Write a network of RGB images of `size` (H, W) in evaluation mode as float32; its input is "x"."""
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 3, *size),),
        str(target),
        dynamo=True,
        external_data=False,
        input_names=["x"],
        dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
        verbose=False,
    )


def quantise(source: Path, target: Path, calibration: Floats) -> None:
    """Write an int8 copy: ONNX Runtime's static quantisation, a scale a channel of weights.

    Ranges of activations are those on the images `calibration` (N, C, H, W), normalised.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(str(source)).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rows = iter(calibration)

        def get_next(self) -> dict[str, Floats] | None:
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )
    prepared.unlink()


def onnxruntime(file: Path, threads: int = 1) -> Callable[[Floats], Floats]:
    """What runs a file in ONNX Runtime: normalised images (B, C, H, W) -> logits."""
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = engine.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(images: Floats) -> Floats:
        logits: Floats = session.run(None, {name: images})[0]
        return logits

    return predict


def openvino(file: Path, threads: int = 1, precision: str = "default") -> Callable[[Floats], Any]:
    """What runs a file in OpenVINO, in float32 or in the precision that it chooses by itself ("default", "int8")."""
    import openvino as engine

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if precision == "float32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = engine.compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda images: request.infer({0: images})
