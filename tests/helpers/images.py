"""Small image files, folders, archives and parquet files for tests of data sources."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(shade: int, kind: int = 0) -> bytes:
    """A small PNG whose strongest channel tells its class."""
    pixels = np.random.default_rng(shade).integers(0, 90, (8, 8, 3))
    pixels[..., kind % 3] += 120
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def class_folders(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 10, first: int = 0) -> Path:
    """Write `count` images of each class below `root`, all different from those of another `first`."""
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            (root / name / f"{index:03}.png").write_bytes(png(1000 * kind + index, kind))
    return root


def parquet(path: Path, labels: Sequence[int], names: Sequence[str] | None = None, first: int = 0) -> Path:
    """Write images with these labels in the Hugging Face convention."""
    import pyarrow as pa
    import pyarrow.parquet

    images = [{"bytes": png(first + row, label % 3), "path": None} for row, label in enumerate(labels)]
    table: Any = pa.table({"image": images, "label": pa.array(list(labels), pa.int64())})
    if names is not None:
        features = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, path)
    return path


def shard(path: Path, labels: Sequence[int], first: int = 0) -> Path:
    """Write a WebDataset shard of images with these labels."""
    members = {}
    for row, label in enumerate(labels):
        members[f"{first + row:05}.png"] = png(first + row, label % 3)
        members[f"{first + row:05}.cls"] = str(label).encode()
    return tar(path, members)


def tar(path: Path, members: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """Write a tar archive of files, and of links or other members given as they are."""
    with tarfile.open(path, "w") as archive:
        for name, held in members.items():
            if isinstance(held, tarfile.TarInfo):
                archive.addfile(held)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(held)
            archive.addfile(info, io.BytesIO(held))
    return path


def zipped(path: Path, folder: Path) -> Path:
    """Write a zip archive of everything below a folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path
