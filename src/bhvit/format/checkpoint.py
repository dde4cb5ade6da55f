"""The description of a model in a checkpoint's metadata, read without PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import bundled, hf_layout
from ..calibration import Calibration
from ..errors import UserError, counted
from ..files import check_regular
from ..image import Preprocess
from ..spec.model import ModelSpec

FORMAT = "bhvit-checkpoint"
"""Key of the metadata. There is one: safetensors writes several in random order, and equal models give equal files."""
VERSION = "1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointDescription:
    """Architecture, checksum and, if there, classes and preprocessing of a checkpoint."""

    spec: ModelSpec
    class_names: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    calibration: Calibration | None = None
    checksum: str | None = None
    """Of names and tensors (`models.checkpoint.checksum`); files of bhvit 0.1.0 have none."""

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the file."""
        described: dict[str, Any] = {"version": VERSION, "spec": self.spec.to_json(), "checksum": self.checksum}
        if self.class_names is not None:
            described["class_names"] = json.dumps(self.class_names)
        if self.preprocess is not None:
            described["preprocess"] = self.preprocess.to_json()
        if self.calibration is not None:
            described["calibration"] = self.calibration.to_json()
        return {FORMAT: json.dumps(described, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: str | Path) -> CheckpointDescription:
        """The description in `metadata`.

        Raises UserError naming the file `path` if it is damaged or contradictory.
        """
        try:
            fields = json.loads(metadata[FORMAT])
            if not isinstance(fields, dict):
                raise ValueError("it is no table")
            if fields.get("version") != VERSION:
                raise UserError(f"it has version {fields.get('version')}; this bhvit reads version {VERSION}")
            spec = ModelSpec.from_json(_text(fields, "spec"))
            names = json.loads(_text(fields, "class_names")) if "class_names" in fields else None
            preprocess = Preprocess.from_json(_text(fields, "preprocess")) if "preprocess" in fields else None
            calibration = Calibration.from_json(_text(fields, "calibration")) if "calibration" in fields else None
            checksum = fields.get("checksum")
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{path} is damaged: its description cannot be read") from None
        if names is not None:
            _check_names(names, spec, path)
        return cls(
            spec=spec,
            class_names=None if names is None else tuple(names),
            preprocess=preprocess,
            calibration=calibration,
            checksum=checksum,
        )


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, {} if it has none.

    Raises UserError for any other file.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    if not path.exists():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def read_description(path: Path) -> CheckpointDescription:
    """Read the description of a checkpoint, or of the weights in a model's folder.

    Raises UserError if there is no file, or it is neither.
    """
    check_regular(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}{bundled.hint(path, '.safetensors')}")
    metadata = read_metadata(path)
    if FORMAT in metadata:
        return CheckpointDescription.from_metadata(metadata, path)
    config, preprocessor = path.with_name(hf_layout.CONFIG), path.with_name(hf_layout.PREPROCESSOR)
    if path.name != hf_layout.WEIGHTS or not config.is_file():
        found = "a packed model" if metadata.get("format") == "bhvit" else "not a checkpoint of bhvit"
        raise UserError(f"{path} is {found}; a checkpoint that `bhvit train` wrote is needed")
    spec, class_names = hf_layout.read_json(config, hf_layout.read_config)
    return CheckpointDescription(
        spec=spec,
        class_names=class_names,
        preprocess=hf_layout.read_json(preprocessor, hf_layout.read_preprocessor) if preprocessor.is_file() else None,
        calibration=hf_layout.read_json(config, hf_layout.read_calibration),
    )


def _text(fields: Mapping[str, Any], key: str) -> str:
    if not isinstance(fields[key], str):
        raise ValueError(f"{key} is no text")
    return str(fields[key])


def _check_names(names: Any, spec: ModelSpec, path: str | Path) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is damaged: its class names are no list of names")
    if len(names) != spec.num_classes:
        raise UserError(f"{path} is damaged: it names {counted(len(names), 'class')}, its model has {spec.num_classes}")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} is damaged: a class name is not Unicode text") from None
