"""The `.bhv` file: an op program and its tensors as a safetensors file.

Layout: 8 bytes, the header's length (little-endian); the header, JSON padded with spaces so that the
data starts at a multiple of 64 bytes; the tensors, without gaps. The header's `__metadata__` has

    format        "bhvit"
    version       "1"
    checksum      CRC-32 of the whole file, 8 hexadecimal digits, computed with "00000000" in their place
    spec          `ModelSpec` as JSON
    program       the ops as a JSON list, see `ops`
    class_names   JSON list, one name a class
    preprocess    `image.Preprocess` as JSON

and may have

    calibration   `calibration.Calibration` as JSON

A file MUST have these keys and exactly the tensors that its ops name; bit tensors are U32, others
F32, F16 or, with two or more dimensions, I8 with a tensor "NAME.scale" next to it (`float_storage`). All hold finite
numbers below 2^100, scales positive ones below 2^93; an `exp_table` has no negative entry and a positive
first one, so that no softmax divides by zero. Whatever breaks a rule is refused with a FormatError that says
which. The same model always gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from .. import bundled
from ..calibration import Calibration
from ..errors import FormatError, UserError, shown
from ..files import check_absent, write_atomically
from ..image import Preprocess
from ..spec.limits import LIMITS
from ..spec.model import ModelSpec
from . import strict_json
from .float_storage import Layout, decode, scale_key, scale_shape
from .op import Op
from .program import HEADS, check_graph
from .strict_json import MAX_VALUES

VERSION = "1"
ALIGNMENT = 64
MAX_BYTES = 1 << 31
MAX_HEADER = 1 << 24
LARGEST = 2.0**100
"""Numbers are smaller than this in magnitude: the engine folds small factors into them and must not overflow."""
METADATA = ("format", "version", "checksum", "spec", "program", "class_names", "preprocess")

Array = npt.NDArray[Any]
_DTYPES = {
    np.dtype(np.uint32): "U32",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(np.int8): "I8",
}
_ENTRY = {"dtype", "shape", "data_offsets"}
_MAX_HEADER_VALUES = 1 << 19
_NO_CHECKSUM = b'"checksum":"00000000"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """Metadata of a `.bhv` file other than its program."""

    spec: ModelSpec
    class_names: tuple[str, ...]
    preprocess: Preprocess
    calibration: Calibration | None = None

    def check(self, image: tuple[int, int, int], classes: int) -> None:
        """Raises FormatError unless a program of images (C, H, W) and that many classes fits."""
        if (self.spec.in_chans, *self.spec.img_size) != image:
            raise FormatError(f"the program takes images of {image}, the spec says otherwise")
        if (self.preprocess.channels, *self.preprocess.size) != image:
            raise FormatError(f"the program takes images of {image}, the preprocessing gives others")
        for name in self.class_names:
            if not isinstance(name, str) or not _is_text(name):
                raise FormatError(f"{shown(name)} is no class name: it must be text that UTF-8 can hold")
        if not classes == self.spec.num_classes == len(self.class_names):
            raise FormatError(
                f"the program has {classes} classes, the spec {self.spec.num_classes}, "
                f"and {len(self.class_names)} names are given"
            )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as in file names that are no UTF-8
        return False
    return True


def describe_spec(
    spec: ModelSpec,
    class_names: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    calibration: Calibration | None = None,
) -> Description:
    """Describe a spec, with numbers as class names and ImageNet's usual preprocessing.

    What is given takes their place.
    """
    names = tuple(class_names or map(str, range(spec.num_classes)))
    usual = Preprocess.usual(spec.img_size, spec.in_chans)
    return Description(spec=spec, class_names=names, preprocess=preprocess or usual, calibration=calibration)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedModel(Description):
    """The contents of a `.bhv` file. Tensors are keyed "op name.tensor name"."""

    ops: tuple[Op, ...]
    tensors: Mapping[str, Array]

    def tensor(self, op: Op, name: str) -> Array:
        """A tensor of an op: words as they are, numbers as float32."""
        return _decoded(self.tensors, f"{op.name}.{name}")

    def op_tensors(self, op: Op) -> dict[str, Array]:
        """All tensors of an op by their short names."""
        return {name: self.tensor(op, name) for name in op.shapes()}


def check(model: PackedModel) -> None:
    """Raises FormatError unless the program, its tensors, the classes and the spec agree."""
    check_graph(model.ops)
    expected = {f"{op.name}.{name}": kind_shape for op in model.ops for name, kind_shape in op.shapes().items()}
    scales = {scale_key(name) for name in expected if _is_int8(model.tensors.get(name))}
    if missing := sorted((expected.keys() | scales) - model.tensors.keys()):
        raise FormatError(f"tensor {missing[0]} is missing")
    if unknown := sorted(model.tensors.keys() - expected.keys() - scales):
        raise FormatError(f"tensor {unknown[0]} belongs to no op")
    for name, (kind, shape) in expected.items():
        stored = model.tensors[name]
        if tuple(stored.shape) != shape:
            raise FormatError(f"tensor {name} has shape {list(stored.shape)}, its op needs {list(shape)}")
        if (stored.dtype == np.uint32) != (kind == "bits") or stored.dtype not in _DTYPES:
            raise FormatError(f"tensor {name} has type {stored.dtype}, its op needs {kind}")
        if _is_int8(stored):
            _check_scale(name, shape, model.tensors[scale_key(name)])
        if kind == "float" and not (np.abs(_decoded(model.tensors, name)) < LARGEST).all():
            raise FormatError(f"tensor {name} holds numbers that are not finite, or of 2^100 or more")
        if name.endswith(".exp_table") and (stored[0] <= 0 or (stored < 0).any()):
            raise FormatError(f"tensor {name} is no table of weights: the first must be positive")
    if HEADS[model.ops[-1].kind] != model.spec.task:
        raise FormatError(f"the program is to {HEADS[model.ops[-1].kind]}, the spec to {model.spec.task}")
    stem, head = model.ops[0].attributes, model.ops[-1].attributes
    image = (stem["in_chans"], stem["height"] * stem["patch"], stem["width"] * stem["patch"])
    model.check(image, head["classes"])


def _is_int8(stored: Array | None) -> bool:
    return stored is not None and stored.dtype == np.int8


def _check_scale(name: str, shape: tuple[int, ...], scale: Array) -> None:
    if len(shape) < 2:
        raise FormatError(f"tensor {name} has type int8, which needs two dimensions or more")
    if scale.dtype != np.float32 or scale.shape != scale_shape(shape):
        raise FormatError(
            f"tensor {scale_key(name)} must be float32 of shape {list(scale_shape(shape))}, "
            f"not {scale.dtype} of {list(scale.shape)}"
        )
    if not ((scale > 0) & (scale < LARGEST / 128)).all():
        raise FormatError(f"tensor {scale_key(name)} holds numbers that are not positive or not below 2^93")


def _decoded(tensors: Mapping[str, Array], name: str) -> Array:
    """A stored tensor: words as they are, numbers as float32."""
    stored = tensors[name]
    if stored.dtype == np.int8:
        return decode(stored, tensors[scale_key(name)])
    return stored if stored.dtype == np.uint32 else stored.astype(np.float32, copy=False)


def to_bytes(model: PackedModel) -> bytes:
    """The file as bytes. Raises FormatError if the parts of `model` do not agree."""
    check(model)
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in model.tensors.items()}
    names, head = header(model, model.ops, layout)
    data = head + b"".join(np.ascontiguousarray(model.tensors[name]).tobytes() for name in names)
    return data.replace(_NO_CHECKSUM, b'"checksum":"%08x"' % zlib.crc32(data), 1)


def header(model: Description, ops: Sequence[Op], layout: Layout) -> tuple[list[str], bytes]:
    """Return the order of the tensors, and the bytes before them.

    The checksum is not yet filled in.
    """
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in layout.items()}
    # Tensors of a whole number of cache lines first: then each of them starts on one.
    names = sorted(layout, key=lambda name: (sizes[name] % ALIGNMENT != 0, name))
    fields: dict[str, Any] = {
        "__metadata__": {
            "format": "bhvit",
            "version": VERSION,
            "checksum": "00000000",
            "spec": model.spec.to_json(),
            "program": json.dumps([op.to_json() for op in ops], separators=(",", ":")),
            "class_names": json.dumps(model.class_names),
            "preprocess": model.preprocess.to_json(),
            **({} if model.calibration is None else {"calibration": model.calibration.to_json()}),
        }
    }
    offset = 0
    for name in names:
        dtype, shape = layout[name]
        fields[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + sizes[name]],
        }
        offset += sizes[name]
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return names, len(text).to_bytes(8, "little") + text


def check_target(path: str | Path, force: bool) -> None:
    """Raises UserError unless a packed file can be written to `path`.

    With another ending than .bhv, commands and other programs would take it for another kind of file.
    """
    check_absent(path, force)
    if Path(path).suffix != ".bhv":
        raise UserError(f"a packed file has a format of its own, so its name cannot be {path}: end it in .bhv")


def write(model: PackedModel, path: str | Path) -> None:
    """Write a `.bhv` file, whole or not at all. Raises FormatError or UserError."""
    write_atomically(path, to_bytes(model))


def read(path: str | Path) -> PackedModel:
    """Read and validate a `.bhv` file. Raises FormatError naming the file and what is wrong."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"cannot read {path}: it is a pipe or a device; copy it to a plain file")
            if status.st_size > MAX_BYTES:
                raise UserError(f"cannot read {path}: it is larger than the 2 GiB that a model may have")
            data = file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}{bundled.hint(path)}") from error
    try:
        return from_bytes(data)
    except UserError as error:
        raise FormatError(f"{path}: {error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """`os.open` that does not wait for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def from_bytes(data: bytes) -> PackedModel:
    """The model in the bytes of a `.bhv` file. Raises FormatError saying what is wrong."""
    fields = _read_header(data)
    metadata = fields["__metadata__"]
    _check_length(data, fields)  # first: a file that is cut short has another checksum, too
    stored = b'"checksum":"%s"' % metadata["checksum"].encode()
    if f"{zlib.crc32(data.replace(stored, _NO_CHECKSUM, 1)):08x}" != metadata["checksum"]:
        raise FormatError("damaged: its checksum does not match; copy or pack it again")
    for name, entry in fields.items():
        if name != "__metadata__" and not (isinstance(entry, dict) and entry.keys() == _ENTRY):
            raise FormatError(f"tensor {name}: its entry in the header is damaged")
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise FormatError(f"not a whole safetensors file: {error}") from error
    ops = tuple(Op.from_json(fields) for fields in _list(metadata, "program", MAX_VALUES))
    model = PackedModel(**_description(metadata), ops=ops, tensors=tensors)
    check(model)
    return model


def describe(data: bytes) -> Description:
    """Describe a file from its bytes or those of its header.

    For callers whose native program has checked the bytes.

    Raises FormatError or UserError if the header or a description in it is damaged.
    """
    return Description(**_description(_read_header(data)["__metadata__"]))


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    strict_json.loads(metadata["preprocess"], "the header's preprocess")
    fields = strict_json.loads(metadata["spec"], "the header's spec")
    # A spec may be written by hand with a size such as "32x32"; that of a file is as `ModelSpec.to_json` writes it.
    if not isinstance(fields, dict) or not isinstance(fields.get("img_size"), list):
        raise FormatError("the header's spec is damaged: its img_size is not a list")
    calibration = metadata.get("calibration")
    if calibration is not None:
        strict_json.loads(calibration, "the header's calibration")
    return {
        "spec": ModelSpec.from_json(metadata["spec"]),
        "class_names": read_names(metadata["class_names"], "the header's class_names"),
        "preprocess": Preprocess.from_json(metadata["preprocess"]),
        "calibration": None if calibration is None else Calibration.from_json(calibration),
    }


def _read_header(data: bytes) -> dict[str, Any]:
    """Read the header of a file, and check the keys of its `__metadata__`."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8:
        raise FormatError(f"not a .bhv file: {len(data)} bytes hold no header; copy or download it again")
    if len(data) > MAX_BYTES or not 2 <= length <= MAX_HEADER or data[8:9] not in (b"{", b""):
        raise FormatError("not a .bhv file: it does not begin as one, or is too large; `bhvit pack` makes one")
    if len(data) < 8 + length:
        raise _cut_short(data, f"alone needs {8 + length}")
    fields: dict[str, Any] = strict_json.loads(data[8 : 8 + length], "not a .bhv file: its header", _MAX_HEADER_VALUES)
    metadata = fields.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != "bhvit":
        raise FormatError("not a .bhv file: it has no bhvit header; `bhvit pack` makes one from a checkpoint")
    if metadata.get("version") != VERSION:
        raise FormatError(f"version {metadata.get('version')!r}; this bhvit reads version {VERSION!r}: pack it again")
    for key in METADATA:
        if not isinstance(metadata.get(key), str):
            raise FormatError(f"the header lacks {key}")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise FormatError(f"the header's {key} is not text")
    return fields


def _check_length(data: bytes, fields: Mapping[str, Any]) -> None:
    """Raises FormatError if tensors lie beyond the end of the file.

    Other damage of the header, not yet checked, is passed over.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    offsets = [entry.get("data_offsets") for entry in fields.values() if isinstance(entry, dict)]
    ends = [pair[1] for pair in offsets if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], int)]
    needed = start + max(ends, default=0)
    if len(data) < needed <= MAX_BYTES:
        raise _cut_short(data, f"says it needs {needed}")


def _cut_short(data: bytes, claim: str) -> FormatError:
    return FormatError(f"cut short: it has {len(data)} bytes, its header {claim}; copy or download it again")


def read_names(text: str, what: str) -> tuple[str, ...]:
    """Read the class names in a JSON list; `what` names it in messages. Raises FormatError."""
    names = strict_json.loads(text, what, 1 + LIMITS["classes"])
    if not isinstance(names, list):
        raise FormatError(f"{what} is not a list")
    if not all(isinstance(name, str) for name in names):
        raise FormatError(f"{what} holds something else than names")
    return tuple(names)


def _list(metadata: Mapping[str, str], key: str, max_values: int) -> Sequence[Any]:
    value = strict_json.loads(metadata[key], f"the header's {key}", max_values)
    if not isinstance(value, list):
        raise FormatError(f"the header's {key} is not a list")
    return value
