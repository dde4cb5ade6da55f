"""Compare an exported ONNX model with its packed file and with PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.dataset import Dataset
from ..data.masks import MaskedDataset
from ..data.metrics import Floats, Metrics, Predict, Progress, agreement, metrics, predict_all
from ..data.segmentation_metrics import Labels, SegmentationMetrics, confusion
from ..errors import UserError, counted, require_extra
from ..files import check_regular
from ..format import file as bhv_file
from ..runtime import Session
from .predictors import labels_of, open_pair, torch_predict

if TYPE_CHECKING:
    from ..models import BHViT


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportComparison:
    """What `compare_export` found."""

    exported: Metrics
    others: dict[str, Metrics]
    """By what ran it: "packed file", and "PyTorch" if a checkpoint was given."""
    labelled: bool
    """Whether the images' classes are the model's, so that accuracies mean something."""

    @property
    def agreement(self) -> float:
        """The smallest fraction of images with the same most likely class in both."""
        return min(agreement(self.exported, other) for other in self.others.values())

    def findings(self) -> list[tuple[str, str]]:
        """What was found: names and values as text."""
        images = len(self.exported.labels)
        rows = [("images", str(images))]
        for name, other in self.others.items():
            same = agreement(self.exported, other)
            rows.append(
                (f"top-1 agreement with {name}", f"{same:.2%} ({round(same * images)} of {counted(images, 'image')})")
            )
            rows.append((f"largest logit difference to {name}", f"{self._difference(other):.3g}"))
        for name, found in (("ONNX Runtime", self.exported), *self.others.items()):
            rows.append((f"accuracy of {name}", f"{found.top1:.2%}" if self.labelled else "not measured"))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "images": len(self.exported.labels),
            "agreement": self.agreement,
            "onnx_top1": self.exported.top1 if self.labelled else None,
            "others": {
                name: {
                    "agreement": agreement(self.exported, other),
                    "max_logit_difference": self._difference(other),
                    "top1": other.top1 if self.labelled else None,
                }
                for name, other in self.others.items()
            },
        }

    def _difference(self, other: Metrics) -> float:
        return float(np.abs(self.exported.logits - other.logits).max())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskExportComparison:
    """What `compare_mask_export` found. Pixels are counted at the model's size."""

    metrics: dict[str, SegmentationMetrics]
    """By what labelled the images: "ONNX Runtime", "packed file", and "PyTorch" if a checkpoint was given."""
    agreements: dict[str, float]
    """Of each of the others, the fraction of all pixels to which ONNX Runtime gives the same class."""

    @property
    def agreement(self) -> float:
        """The smallest of `agreements`."""
        return min(self.agreements.values())

    def findings(self) -> list[tuple[str, str]]:
        """What was found: names and values as text."""
        images = self.metrics["ONNX Runtime"].images
        rows = [
            (f"pixel agreement with {name}", f"{same:.3%} of the pixels of {counted(images, 'image')}")
            for name, same in self.agreements.items()
        ]
        return rows + [(f"mIoU of {name}", f"{found.miou:.2%}") for name, found in self.metrics.items()]

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a JSON file."""
        return {
            "images": self.metrics["ONNX Runtime"].images,
            "agreement": self.agreement,
            "onnx_miou": self.metrics["ONNX Runtime"].miou,
            "others": {
                name: {"agreement": same, "miou": self.metrics[name].miou} for name, same in self.agreements.items()
            },
        }


def compare_export(
    exported: Path,
    packed: Path,
    dataset: Dataset,
    *,
    checkpoint: Path | None = None,
    threads: int = 1,
    isa: str = "auto",
    max_memory: int | None = None,
    labelled: bool = True,
    progress: Callable[[str], Progress] | None = None,
) -> ExportComparison:
    """Run all images through ONNX Runtime, the packed file and, if given, the checkpoint.

    Raises UserError if the files do not belong together or ONNX Runtime cannot run the exported one.
    """
    model, file = _opened(checkpoint, packed)
    predict = onnx_predict(exported, file, packed, threads)
    show = progress or (lambda what: None)  # type: ignore[return-value]
    labels, names = dataset.labels, dataset.class_names
    if not labelled:
        labels, names = np.zeros_like(labels), file.class_names

    def measure(who: str, one: Predict) -> Metrics:
        logits, seconds = predict_all(one, dataset, file.preprocess, progress=show(who))
        return metrics(logits, labels, names, seconds=seconds)

    session = Session(packed, threads=threads, isa=isa, max_memory=max_memory)
    others = {"packed file": measure("packed file", session)}
    if model is not None:
        others["PyTorch"] = measure("PyTorch", torch_predict(model))
    return ExportComparison(exported=measure("ONNX Runtime", predict), others=others, labelled=labelled)


def compare_mask_export(
    exported: Path,
    packed: Path,
    dataset: MaskedDataset,
    *,
    checkpoint: Path | None = None,
    threads: int = 1,
    isa: str = "auto",
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> MaskExportComparison:
    """Label all images by ONNX Runtime, the packed file and, if given, the checkpoint.

    Raises UserError as `compare_export` does.
    """
    model, file = _opened(checkpoint, packed)
    session = Session(packed, threads=threads, isa=isa, max_memory=max_memory)
    by_onnx = onnx_predict(exported, file, packed, threads)
    labellers: dict[str, Callable[[Floats], Labels]] = {"ONNX Runtime": lambda images: labels_of(by_onnx(images)[0])}
    labellers["packed file"] = lambda images: session.program.segment(images)[0]
    if model is not None:
        by_torch = torch_predict(model)
        labellers["PyTorch"] = lambda images: labels_of(by_torch(images)[0])
    classes = len(dataset.class_names)
    counts = {name: np.zeros((classes, classes), np.int64) for name in labellers}
    same, pixels = dict.fromkeys(labellers, 0), 0
    for index in range(len(dataset)):
        both = dataset.pixels(index, file.preprocess)
        images, mask = file.preprocess.normalize(both[None, :, :, :-1]), both[:, :, -1]
        labels = {name: label(images) for name, label in labellers.items()}
        pixels += mask.size
        for name, found in labels.items():
            counts[name] += confusion(mask, found, classes)
            same[name] += int((found == labels["ONNX Runtime"]).sum())
        if progress is not None:
            progress(index + 1, len(dataset))
    return MaskExportComparison(
        metrics={
            name: SegmentationMetrics(class_names=dataset.class_names, confusion=count, images=len(dataset))
            for name, count in counts.items()
        },
        agreements={name: count / pixels for name, count in same.items() if name != "ONNX Runtime"},
    )


def _opened(checkpoint: Path | None, packed: Path) -> tuple[BHViT | None, bhv_file.PackedModel]:
    return (None, bhv_file.read(packed)) if checkpoint is None else open_pair(checkpoint, packed)


def onnx_predict(path: Path, file: bhv_file.PackedModel, packed: Path, threads: int = 1) -> Predict:
    """Open an exported model as a function of images to logits.

    Images are normalised, (B, C, H, W).

    `file` is what it was exported from. Raises UserError if ONNX Runtime cannot read it, or it was exported from a
    model of another architecture.
    """
    try:
        import onnxruntime
    except ImportError:
        raise require_extra("onnxruntime", "onnx") from None
    check_regular(path)
    if not path.exists():
        raise UserError(f"there is no file {path}; `bhvit export {packed} {path}` makes it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        spec = session.get_modelmeta().custom_metadata_map.get("spec")
    except Exception as error:  # the classes of its errors are private, and derive from nothing narrower
        raise _not_runnable(path, error) from None
    if spec is None or not _same_json(spec, file.spec.to_json()):
        raise UserError(f"{path} was not exported from {packed}, which holds a {file.spec.name} of other settings")

    pixels = file.spec.img_size if file.spec.task == "segment" else ()

    def predict(images: Floats) -> Floats:
        try:
            logits = session.run(["logits"], {"images": images})[0]
        except Exception as error:  # as above
            raise _not_runnable(path, error) from None
        wanted = (len(images), file.spec.num_classes, *pixels)
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32 or logits.shape != wanted:
            raise UserError(f"{path} gives no float32 logits of the shape {wanted}: `bhvit export` makes one that does")
        return logits

    return predict


def _not_runnable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return UserError(f"{path} is no ONNX model that ONNX Runtime can run: {reason}")


def _same_json(first: str, second: str) -> bool:
    try:
        return bool(json.loads(first) == json.loads(second))
    except (ValueError, RecursionError):
        return False
