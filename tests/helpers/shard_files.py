"""Small images, and shards of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Literal

from PIL import Image


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, samples: list[dict[str, bytes]], mode: Literal["w", "w:gz"] = "w") -> Path:
    """Samples are files by ending."""
    with tarfile.open(path, mode) as archive:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                info = tarfile.TarInfo(f"{number:05}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path
