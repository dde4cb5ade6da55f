"""Images and labels as columns of parquet files, in the Hugging Face convention."""

from __future__ import annotations

import bisect
import io
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError, require_extra
from ..system import environment_limit
from ..text import some
from .index_cache import stamp_of
from .stores import WINDOW, EncodedStore, check_size, first_line, reading

if TYPE_CHECKING:
    from .parquet_pages import Chunk

PARQUET_CACHE = 512 << 20
"""Bytes of encoded images a parquet store keeps in memory. CIFAR and Tiny-ImageNet fit as a whole;
larger sets keep the row groups used last."""
MAX_GROUP_BYTES = environment_limit("BHVIT_MAX_GROUP_BYTES", 512 << 20)
"""Bytes of the images of one row group, which is read as a whole, where they are more than twice the file's: a small
file may name one image a million times. Raised by BHVIT_MAX_GROUP_BYTES."""
_IMAGE_COLUMNS = ("image", "img")
_MASK_COLUMNS = ("annotation", "mask")
_BATCH = 16
"""Rows that are unpacked before their bytes are counted."""
_CHUNKS = 256
"""Parts of a row group after which small ones become one."""
_SMALL = 1 << 18
"""Bytes of so many parts that are small."""


class ParquetStore(EncodedStore):
    """The image column of parquet files, either {bytes, path} or bytes, read by row groups."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self.files, self.column = list(files), column
        self.groups: list[tuple[int, int]] = []
        """(file, row group) of each row group in order."""
        self.first_rows: list[int] = []
        """The number of the first image of each file."""
        self.bytes = 0
        """Of all row groups, uncompressed."""
        rows: list[int] = []
        for number, path in enumerate(self.files):
            metadata = open_parquet(path).metadata
            _check_rows(path, metadata.num_rows)
            self.first_rows.append(sum(rows))
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                rows.append(metadata.row_group(group).num_rows)
                self.bytes += metadata.row_group(group).total_byte_size
        self.starts = [0, *itertools.accumulate(rows)]
        with reading(self.files[0]):
            self.window = max(2, min(WINDOW, PARQUET_CACHE * len(rows) // max(1, self.bytes)))
            self.stamp = {str(path.absolute()): stamp_of(path) for path in self.files}
        self._reset()

    @property
    def blocks(self) -> npt.NDArray[np.int64] | None:
        if self.bytes <= PARQUET_CACHE:  # each row group is read once
            return None
        return np.repeat(np.arange(len(self.groups)), np.diff(self.starts))

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}
        self._chunks: dict[int, list[list[Chunk]]] = {}
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._refused: dict[int, str] = {}
        """Why row groups cannot be read: each is tried once, not once for each of its images."""

    def name(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.files[number]} row {row}"

    def identity(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.files[number].name} {row}"

    def _place(self, index: int) -> tuple[int, int]:
        """The file of an image, and its row there."""
        number = self.groups[bisect.bisect_right(self.starts, index) - 1][0]
        return number, index - self.first_rows[number]

    def open(self, index: int) -> IO[bytes] | None:
        group = bisect.bisect_right(self.starts, index) - 1
        value = self._group(group)[index - self.starts[group]]
        if not value.is_valid:
            raise UserError(f"{self.name(index)} holds no image bytes")
        buffer = value.as_buffer()
        check_size(self.name(index), buffer.size)
        return io.BytesIO(buffer)

    def _group(self, group: int) -> Any:
        """Return the encoded images of a row group, from memory if used lately."""
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            if group in self._refused:
                raise UserError(self._refused[group])
            number, inner = self.groups[group]
            if number not in self._open:
                self._open[number] = open_parquet(self.files[number])
            file = self._open[number]
            try:
                array = self._read(file, number, inner)
            except (OSError, ValueError, KeyError, NotImplementedError) as error:  # Arrow's errors are these
                damage = f"{self.files[number]} is damaged in row group {inner}: {first_line(error)}"
                self._refused[group] = str(error) if isinstance(error, UserError) else damage
                raise UserError(self._refused[group]) from None
            self._cache[group] = array
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > PARQUET_CACHE:
                self._cache.popitem(last=False)
            return array

    def _read(self, file: Any, number: int, group: int) -> Any:
        """The encoded images of a row group as a chunked array.

        Raises UserError if they are too large.
        """
        import pyarrow

        chunks: list[Any] = []
        size = whole = 0
        limit = max(MAX_GROUP_BYTES, 2 * self.files[number].stat().st_size)
        self._check_pages(file, number, group, limit)
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=[self.column]):
            column: Any = batch.column(0)
            chunks.append(column.field("bytes") if column.type.num_fields else column)
            size += chunks[-1].nbytes
            if size > limit:
                raise self._too_large(number, group, limit)
            if len(chunks) - whole == _CHUNKS:
                if sum(chunk.nbytes for chunk in chunks[whole:]) < _SMALL:  # less than the objects that hold them
                    chunks[whole:] = [pyarrow.concat_arrays(chunks[whole:])]
                whole = len(chunks)
        return pyarrow.chunked_array(chunks)

    def _check_pages(self, file: Any, number: int, group: int, limit: int) -> None:
        """Raises UserError if pages of images are too large: a page is unpacked as a whole."""
        from .parquet_pages import chunks_of, unpacked_size

        path = self.files[number]
        if number not in self._chunks:
            self._chunks[number] = chunks_of(path)
        if unpacked_size(path, _own_chunks(file, self._chunks[number][group], self.column), limit) > limit:
            raise self._too_large(number, group, limit)

    def _too_large(self, number: int, group: int, limit: int) -> UserError:
        return UserError(
            f"{self.files[number]}: the images of row group {group} have more than {limit} bytes: "
            "write it with smaller row groups, or set BHVIT_MAX_GROUP_BYTES to allow more"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def open_parquet(path: Path) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises UserError if it is not one, or cut short."""
    try:
        import pyarrow.parquet
        import thrift  # noqa: F401  # which parquet_pages needs
    except ImportError as error:
        raise require_extra(error.name or "pyarrow", "parquet") from None
    with reading(path):
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty: copy or download it again")
        try:
            return pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, ValueError) as error:
            raise UserError(
                f"{path} is not a whole parquet file, copy or download it again: {first_line(error)}"
            ) from None


def mask_columns(path: Path) -> tuple[str, str]:
    """Return the image column and the mask column of a file.

    Raises UserError if one is missing.
    """
    import pyarrow

    schema = open_parquet(path).schema_arrow
    image = _first_column(schema, _IMAGE_COLUMNS)
    mask = _first_column(schema, (*_MASK_COLUMNS, "label"))
    if image is None or mask is None:
        missing = "image" if image is None else "annotation"
        raise UserError(f"{path} lacks the column {missing} {{bytes, path}}; it has {some(schema.names)}")
    if mask == "label" and pyarrow.types.is_integer(schema.field(mask).type):
        raise UserError(
            f"{path} has classes of whole images (the column label), for models that classify; one that labels pixels "
            "needs a column annotation {bytes, path}"
        )
    for column in (image, mask):
        _check_encoded(path, column, schema.field(column).type)
    return image, mask


def parquet_schema(path: Path) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the image column, the label column and the metadata's class names.

    The names are None without such metadata.
    """
    import pyarrow

    schema = open_parquet(path).schema_arrow
    image = _first_column(schema, _IMAGE_COLUMNS)
    label = _first_column(schema, ("label", "labels", "fine_label"))
    if image is None or label is None:
        missing = "image {bytes, path}" if image is None else "label"
        masked = image is not None and _first_column(schema, _MASK_COLUMNS)
        hint = f": {masked} is for models that label pixels (`bhvit train --task segment`)" if masked else ""
        raise UserError(f"{path} lacks the column {missing}; it has {some(schema.names)}{hint}")
    _check_encoded(path, image, schema.field(image).type)
    if not pyarrow.types.is_integer(schema.field(label).type):
        raise UserError(f"{path}: column {label} is {schema.field(label).type}, not whole numbers")
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        if not isinstance(names, list):
            raise TypeError("names are no list")
        return image, label, tuple(str(name) for name in names)
    except (KeyError, ValueError, TypeError, RecursionError):
        return image, label, None


def image_column(path: Path) -> str:
    """Return the name of the image column. Raises UserError if there is none."""
    schema = open_parquet(path).schema_arrow
    image = _first_column(schema, _IMAGE_COLUMNS)
    if image is None:
        raise UserError(f"{path} lacks the column image {{bytes, path}}; it has {some(schema.names)}")
    _check_encoded(path, image, schema.field(image).type)
    return image


def _first_column(schema: Any, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _check_encoded(path: Path, column: str, kind: Any) -> None:
    """Raises UserError unless a column's type is {bytes, …} or bytes."""
    import pyarrow

    holder = kind.field("bytes").type if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pyarrow.types.is_binary(holder) or pyarrow.types.is_large_binary(holder)):
        raise UserError(f"{path}: column {column} is {kind}, not encoded images {{bytes, path}}")


def _own_chunks(file: Any, chunks: Sequence[Chunk], column: str) -> list[Chunk]:
    """The chunks of a row group that a column, or the fields of one, have."""
    leaves = [file.schema.column(index).path.split(".")[0] for index in range(len(file.schema))]
    return [chunk for chunk, name in zip(chunks, leaves) if name == column]


def _check_rows(path: Path, rows: int) -> None:
    """Raises UserError for more rows than there can be images."""
    if rows > 8 * path.stat().st_size:
        raise UserError(f"{path} claims {rows} rows, more than its bits: it cannot hold images")


def parquet_labels(files: Sequence[Path], column: str) -> npt.NDArray[np.int64]:
    """Return the labels of all rows, int64 (N,).

    Raises UserError if one is missing, negative or beyond 64 bits.
    """
    from .parquet_pages import chunks_of, unpacked_size

    parts = []
    for path in files:
        file = open_parquet(path)
        _check_rows(path, file.metadata.num_rows)
        limit = max(MAX_GROUP_BYTES, 2 * path.stat().st_size)
        size = 8 * file.metadata.num_rows
        if size <= limit:
            own = [chunk for group in chunks_of(path) for chunk in _own_chunks(file, group, column)]
            size = unpacked_size(path, own, limit)
        if size > limit:
            raise UserError(
                f"{path} claims {file.metadata.num_rows} rows, whose labels alone have more than {MAX_GROUP_BYTES} "
                "bytes: divide it, or set BHVIT_MAX_GROUP_BYTES to allow more"
            )
        try:
            values: Any = file.read(columns=[column]).column(column)
        except (OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from None
        if values.null_count:
            raise UserError(f"{path}: {values.null_count} of its labels are missing")
        try:
            labels = values.cast("int64").to_numpy()
        except (ValueError, OverflowError):
            raise UserError(f"{path}: column {column} holds numbers beyond 64 bits; labels are class numbers") from None
        if (labels < 0).any():
            raise UserError(f"{path}: label {labels.min()} is negative; labels count from 0")
        parts.append(labels)
    return np.concatenate(parts)
