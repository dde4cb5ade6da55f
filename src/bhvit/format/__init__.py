"""The `.bhv` file: program of ops, arithmetic, storage of floats, reading and writing."""

from .file import PackedModel, from_bytes, read, to_bytes, write
from .op import Op

__all__ = ["Op", "PackedModel", "from_bytes", "read", "to_bytes", "write"]
